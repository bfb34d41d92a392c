"""The precision in which a Trainer computes: its name, its change in mid-run, and what Lightning does not say."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from lightning_tricks.errors import UnsupportedError, message
from lightning_tricks.precision.plugins import CachedMixedPrecision


def precision_of(trainer: Any) -> str:
    """Return the name of a Trainer's precision, as ``"16-mixed"``."""
    return str(getattr(trainer.precision_plugin, "precision", "32-true"))


def switch_precision(trainer: Any, precision: str) -> None:
    """Let a Trainer go on in another precision, between two updates: Lightning looks the plugin up at each step.

    Args:
        trainer: of either namespace; its new plugin is of the same one. A weight cache stays.
        precision: ``"bf16"`` for bf16-mixed, else 32-true.
    """
    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_lightning") else "lightning.pytorch"
    plugins = importlib.import_module(f"{package}.plugins.precision")
    old, plugin = trainer.precision_plugin, plugins.Precision()
    if precision == "bf16":
        make = CachedMixedPrecision if isinstance(old, CachedMixedPrecision) else plugins.MixedPrecision
        plugin = make("bf16-mixed", old.device)
    trainer.strategy.precision_plugin = plugin


def refuse_without_bfloat16(device: torch.device) -> None:
    """Refuse a device that computes in bfloat16 slower than in float32, or not at all."""
    # (False: torch would also count the emulation, which is slower than float32)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        text = f"{torch.cuda.get_device_name(device)} has no bfloat16"
        raise UnsupportedError(message("LossScaleGuard", "on_failure", "bf16", text, "Use 'fp32' or 'raise'"))
