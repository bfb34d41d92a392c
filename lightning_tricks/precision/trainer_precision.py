"""The precision in which a Trainer computes, and what Lightning does not say about it."""

from __future__ import annotations

from typing import Any

from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun


def precision_of(trainer: Any) -> str:
    """Return the name of a Trainer's precision, as ``"16-mixed"``."""
    return str(getattr(trainer.precision_plugin, "precision", "32-true"))


def warn_of_cpu(run: TrainingRun, owner: str) -> None:
    """Warn once per run that 16-mixed may have become bf16-mixed: on a CPU Lightning turns one into the other.

    Nothing in the Trainer shows later that it did, so a run that asked for bf16-mixed is told too.
    """
    on_cpu = run.trainer.strategy.root_device.type == "cpu" and precision_of(run.trainer) == "bf16-mixed"
    if on_cpu and run.first_to_say("cpu"):
        warn(
            owner,
            "this run computes in bf16-mixed, which has no loss scale. On a CPU Lightning turns precision='16-mixed' "
            "into it without more than a warning. For float16 on a CPU: plugins=[MixedPrecision('16-mixed', 'cpu')].",
        )
