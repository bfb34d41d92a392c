"""The precision in which a Trainer computes: its name, its change in mid-run, and what Lightning does not say."""

from __future__ import annotations

import importlib
from typing import Any

from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.precision.plugins import CachedMixedPrecision


def precision_of(trainer: Any) -> str:
    """Return the name of a Trainer's precision, as ``"16-mixed"``."""
    return str(getattr(trainer.precision_plugin, "precision", "32-true"))


def warn_of_cpu(run: TrainingRun, owner: str) -> None:
    """Warn once per run that 16-mixed may have become bf16-mixed: on a CPU Lightning turns one into the other.

    Nothing in the Trainer shows later that it did, so a run that asked for bf16-mixed is told too.
    """
    on_cpu = run.trainer.strategy.root_device.type == "cpu" and precision_of(run.trainer) == "bf16-mixed"
    if on_cpu and run.common.first_to_say("cpu"):
        warn(
            owner,
            "this run computes in bf16-mixed, which has no loss scale. On a CPU Lightning turns precision='16-mixed' "
            "into it without more than a warning. For float16 on a CPU: plugins=[MixedPrecision('16-mixed', 'cpu')].",
        )


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
