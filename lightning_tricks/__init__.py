"""Training tricks for PyTorch Lightning, done right once, measured, and safe to leave switched on."""

from lightning_tricks.errors import ConflictError, NonFiniteError, TrickError, UnsupportedError
from lightning_tricks.gradients.adaptive import AdaGC, AutoClip, ZClip
from lightning_tricks.gradients.callbacks import GradientClip, GradientMonitor
from lightning_tricks.gradients.rules import AGC, ClipNorm, ClipRule, ClipValue
from lightning_tricks.runtime.action import TrickWarning
from lightning_tricks.schedules.callbacks import LRSchedule
from lightning_tricks.schedules.curves import Decay

__version__ = "0.1.0"

__all__ = [
    "AGC",
    "AdaGC",
    "AutoClip",
    "ClipNorm",
    "ClipRule",
    "ClipValue",
    "ConflictError",
    "Decay",
    "GradientClip",
    "GradientMonitor",
    "LRSchedule",
    "NonFiniteError",
    "TrickError",
    "TrickWarning",
    "UnsupportedError",
    "ZClip",
]
