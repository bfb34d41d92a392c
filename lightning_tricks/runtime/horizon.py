"""How many updates this run will make: the forecast that a schedule needs before the first step.

Lightning's ``estimated_stepping_batches`` returns -1 for iterable data and ignores scheduled accumulation (48 for
a real 20 in one measured case). Here an unknown length is an error that says what to pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning_tricks.errors import TrickError


class UnknownHorizonError(TrickError):
    """The number of updates of a run cannot be known before it.

    Args:
        text: the message.
        learnable: whether it will be known after the first epoch.
    """

    def __init__(self, text: str, learnable: bool) -> None:
        super().__init__(text)
        self.learnable = learnable


def forecast_updates(trainer: Any) -> int:
    """Return the updates per optimizer from the first step of the run to its end, as far as it can be known.

    Counted from step 0, also after a resume, so that the same run gives the same number. Steps that an AMP overflow or
    a NaN will skip are not known in advance.

    Args:
        trainer: a Trainer whose training data are set up (in ``on_train_start`` and later).

    Raises:
        UnknownHorizonError: nothing bounds the run, or only ``max_time`` does.
    """
    optimizers = max(1, len(trainer.optimizers)) if not trainer.lightning_module.automatic_optimization else 1
    bounds = []
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        bounds.append(math.ceil(trainer.max_steps / optimizers))
    has_epochs = trainer.max_epochs is not None and trainer.max_epochs >= 0
    if has_epochs:
        done = 0
        for epoch in range(trainer.max_epochs):
            updates = updates_in_epoch(trainer, epoch, done)
            if updates is None:
                break
            done += updates
        else:
            bounds.append(done)
    if bounds:
        return int(min(bounds))
    unknown = "max_epochs and max_steps are open"
    if has_epochs:
        finite = math.isfinite(trainer.num_training_batches)
        unknown = "how many batches an update takes depends on them" if finite else "the data have no length"
    timed = " max_time gives no number of updates." if time_progress(trainer) else ""
    raise UnknownHorizonError(
        f"the number of updates of this run is not known ({unknown}).{timed} "
        "Pass total=, e.g. LRSchedule(total=10_000), or Trainer(max_steps=10_000).",
        learnable=bool(has_epochs) and trainer.max_epochs >= 2,
    )


def updates_in_epoch(trainer: Any, epoch: int, done: int) -> int | None:
    """Return the updates of an epoch; None when that is not known.

    Args:
        trainer: the Trainer.
        epoch: its number, from 0.
        done: updates before it.
    """
    batches = trainer.num_training_batches
    for callback in trainer.callbacks:
        own = getattr(callback, "updates_in_epoch", None)  # a trick that steers the windows
        if own is not None:
            found: int | None = own(batches, done)
            return found
    return math.ceil(batches / window_at(window_lengths(trainer), epoch)) if math.isfinite(batches) else None


def updates_per_epoch(trainer: Any) -> float | None:
    """Return the updates in one epoch (of the first one, where accumulation changes); None if not known."""
    updates = updates_in_epoch(trainer, 0, 0)
    return None if updates is None else float(updates)


def time_progress(trainer: Any) -> Callable[[], float] | None:
    """Return a function that says which share of ``max_time`` is over, in [0, 1]; None without a ``max_time``.

    It asks Lightning's Timer, whose clock goes on where it stood after a resume.
    """
    for callback in trainer.callbacks:
        duration = getattr(callback, "_duration", None)
        elapsed = getattr(callback, "time_elapsed", None)
        if duration and elapsed is not None:
            return lambda: min(1.0, float(elapsed()) / float(duration))
    return None


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
