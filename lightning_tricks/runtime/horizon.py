"""How many updates this run will make: the forecast that a schedule needs before the first step.

Lightning's ``estimated_stepping_batches`` returns -1 for iterable data and ignores scheduled accumulation (48 for
a real 20 in one measured case). Here an unknown length is an error that says what to pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_tricks.errors import TrickError


def forecast_updates(trainer: Any) -> int:
    """Return the updates per optimizer from the first step of the run to its end, as far as it can be known.

    Counted from step 0, also after a resume, so that the same run gives the same number. Steps that an AMP overflow or
    a NaN will skip are not known in advance.

    Args:
        trainer: a Trainer whose training data are set up (in ``on_train_start`` and later).

    Raises:
        TrickError: nothing bounds the run, or only ``max_time`` does.
    """
    optimizers = max(1, len(trainer.optimizers)) if not trainer.lightning_module.automatic_optimization else 1
    bounds = []
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        bounds.append(math.ceil(trainer.max_steps / optimizers))
    per_epoch = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(per_epoch):
        windows = window_lengths(trainer)
        epochs = range(trainer.max_epochs)
        bounds.append(sum(math.ceil(per_epoch / window_at(windows, epoch)) for epoch in epochs))
    if bounds:
        return int(min(bounds))
    unknown = "the data have no length" if not math.isfinite(per_epoch) else "max_epochs and max_steps are open"
    timed = " max_time gives no number of updates." if _has_timer(trainer) else ""
    raise TrickError(
        f"the number of updates of this run is not known ({unknown}).{timed} "
        "Pass total=, e.g. LRSchedule(total=10_000), or Trainer(max_steps=10_000)."
    )


def updates_per_epoch(trainer: Any) -> float | None:
    """Return the updates in one epoch (of the first one, where accumulation changes); None if not known."""
    per_epoch = trainer.num_training_batches
    if not math.isfinite(per_epoch):
        return None
    return float(math.ceil(per_epoch / window_at(window_lengths(trainer), 0)))


def window_lengths(trainer: Any) -> dict[int, int]:
    """Return from which epoch on how many batches make one update: ``{epoch: batches}``.

    Lightning's GradientAccumulationScheduler is known by its ``scheduling``, in either namespace.
    """
    for callback in trainer.callbacks:
        scheduling = getattr(callback, "scheduling", None)
        if isinstance(scheduling, Mapping) and hasattr(callback, "get_accumulate_grad_batches"):
            return {int(epoch): int(batches) for epoch, batches in scheduling.items()}
    return {0: int(trainer.accumulate_grad_batches)}


def window_at(windows: Mapping[int, int], epoch: int) -> int:
    """Return the window in force at ``epoch``.

    >>> [window_at({0: 4, 2: 1}, epoch) for epoch in range(4)]
    [4, 4, 1, 1]
    """
    begun = [start for start in windows if start <= epoch]
    return windows[max(begun)] if begun else 1


def _has_timer(trainer: Any) -> bool:
    return any(type(callback).__name__ == "Timer" for callback in trainer.callbacks)
