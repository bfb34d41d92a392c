"""The callbacks for mixed precision, one file each."""

from lightning_tricks.precision.callbacks.fp32_islands import FP32Islands
from lightning_tricks.precision.callbacks.loss_scale_guard import LossScaleGuard
from lightning_tricks.precision.callbacks.precision_doctor import PrecisionDoctor

__all__ = ["FP32Islands", "LossScaleGuard", "PrecisionDoctor"]
