"""The precision in which a Trainer computes: its name, its change in mid-run, and what Lightning does not say."""

from __future__ import annotations

import importlib
from typing import Any

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
