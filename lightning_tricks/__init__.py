"""Training tricks for PyTorch Lightning, done right once, measured, and safe to leave switched on."""

from lightning_tricks.accumulation.callbacks import GradientAccumulation
from lightning_tricks.errors import ConflictError, NonFiniteError, TrickError, UnsupportedError
from lightning_tricks.gradients.adaptive import AdaGC, AutoClip, ZClip
from lightning_tricks.gradients.callbacks import GradientClip, GradientMonitor
from lightning_tricks.gradients.rules import AGC, ClipNorm, ClipRule, ClipValue
from lightning_tricks.lr_finder.callbacks import LRFinder
from lightning_tricks.runtime.action import TrickWarning
from lightning_tricks.schedules.callbacks import LRSchedule
from lightning_tricks.schedules.curves import (
    Constant,
    Cosine,
    Decay,
    Function,
    Linear,
    LinearCosine,
    OneMinusSqrt,
    Polynomial,
)
from lightning_tricks.schedules.cycles import CosineRestarts, Noam, OneCycle
from lightning_tricks.schedules.lengths import (
    Exponential,
    InverseSqrt,
    InverseTime,
    MultiStep,
    NaturalExponential,
    Piecewise,
    Step,
)
from lightning_tricks.schedules.phases import Join, Phase
from lightning_tricks.schedules.plateau import Plateau

__version__ = "0.1.0"

__all__ = [
    "AGC",
    "AdaGC",
    "AutoClip",
    "ClipNorm",
    "ClipRule",
    "ClipValue",
    "ConflictError",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Decay",
    "Exponential",
    "Function",
    "GradientAccumulation",
    "GradientClip",
    "GradientMonitor",
    "InverseSqrt",
    "InverseTime",
    "Join",
    "LRFinder",
    "LRSchedule",
    "Linear",
    "LinearCosine",
    "MultiStep",
    "NaturalExponential",
    "Noam",
    "NonFiniteError",
    "OneCycle",
    "OneMinusSqrt",
    "Phase",
    "Piecewise",
    "Plateau",
    "Polynomial",
    "Step",
    "TrickError",
    "TrickWarning",
    "UnsupportedError",
    "ZClip",
]
