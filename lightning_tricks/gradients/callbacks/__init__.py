"""The callbacks that read and clip gradients, one file each."""

from lightning_tricks.gradients.callbacks.gradient_clip import GradientClip
from lightning_tricks.gradients.callbacks.gradient_monitor import GradientMonitor

__all__ = ["GradientClip", "GradientMonitor"]
