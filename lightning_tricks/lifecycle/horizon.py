"""How many updates each optimizer will make in this run: the forecast that a schedule needs, and what corrects it.

With automatic optimization the Trainer's settings give it: ``forecast_updates``. Lightning's
``estimated_stepping_batches`` returns -1 for iterable data and ignores scheduled accumulation (48 for a real 20 in one
measured case). With manual optimization, or data without a length, it is learnt from what happens: ``lifecycle.pace``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.lightning_internals import timer_duration


class UnknownHorizonError(TrickError):
    """The number of updates of a run cannot be known before it.

    Args:
        text: the message.
        learnable: whether it will be known after the first epoch.
    """

    def __init__(self, text: str, learnable: bool) -> None:
        super().__init__(text)
        self.learnable = learnable


@dataclass(frozen=True)
class Standing:
    """What a run has done at the beginning of a batch; nothing before the first batch.

    Args:
        epoch: of the batch, from 0.
        updates: attempts of the optimizer.
        in_epoch: those among them that this epoch made.
        steps: Lightning's global step.
    """

    epoch: int = 0
    updates: int = 0
    in_epoch: int = 0
    steps: int = 0

    @classmethod
    def of(cls, trainer: Any, updates: int) -> Standing:
        """Return where a Trainer's loops stand; in ``on_train_batch_start``, when they have started counting again."""
        progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.current
        in_epoch = min(updates, int(progress.completed))
        return cls(int(trainer.current_epoch), updates, in_epoch, int(trainer.global_step))


def forecast_updates(trainer: Any, behind: Standing | None = None, per_epoch: int | None = None) -> int:
    """Return the updates of an optimizer from the first step of the run to its end, as far as it can be known.

    Steps that an AMP overflow or a NaN will skip are not known in advance. With manual optimization it is what one
    update per batch and optimizer gives.

    Args:
        trainer: a Trainer whose training data are set up (in ``on_train_start`` and later).
        behind: what is behind the run; None for a forecast from its begin.
        per_epoch: updates in an epoch, where the data do not tell and an epoch has shown it.

    Raises:
        UnknownHorizonError: nothing bounds the run, or only ``max_time`` does.
    """
    behind = Standing() if behind is None else behind
    # With manual optimization ``global_step``, which ``max_steps`` bounds, adds up the steps of all optimizers
    # (#17958).
    optimizers = 1 if trainer.lightning_module.automatic_optimization else max(1, len(trainer.optimizers))
    bounds = []
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        bounds.append(behind.updates + math.ceil(max(0, trainer.max_steps - behind.steps) / optimizers))
    has_epochs = trainer.max_epochs is not None and trainer.max_epochs >= 0
    if has_epochs:
        done: int | None = behind.updates - behind.in_epoch
        for epoch in range(behind.epoch, trainer.max_epochs):
            updates = updates_in_epoch(trainer, epoch, done or 0)
            updates = per_epoch if updates is None else updates
            done = None if updates is None or done is None else done + updates
        if done is not None:
            bounds.append(done)
    if bounds:
        return int(min(bounds))
    raise unknown_horizon(trainer)


def unknown_horizon(trainer: Any) -> UnknownHorizonError:
    """Return the error that says what is missing in the Trainer's settings, and what to pass."""
    has_epochs = trainer.max_epochs is not None and trainer.max_epochs >= 0
    unknown = "max_epochs and max_steps are open"
    if has_epochs:
        finite = math.isfinite(trainer.num_training_batches)
        unknown = "how many batches an update takes depends on them" if finite else "the data have no length"
    timed = " max_time gives no number of updates." if time_progress(trainer) else ""
    return UnknownHorizonError(
        f"the number of updates of this run is not known ({unknown}).{timed} "
        "Pass total=, e.g. LRSchedule(total=10_000), or Trainer(max_steps=10_000).",
        learnable=bool(has_epochs) and trainer.max_epochs >= 2,
    )


def bounds(trainer: Any) -> list[Any]:
    """Return what decides how long a run is, as plain values: where it is another after a resume, so is the length."""
    per_epoch = trainer.num_training_batches
    windows = [list(pair) for pair in sorted(window_lengths(trainer).items())]
    steered = any(hasattr(callback, "updates_in_epoch") for callback in trainer.callbacks)
    return [
        trainer.max_epochs,
        trainer.max_steps,
        float(per_epoch) if math.isfinite(per_epoch) else None,
        updates_in_epoch(trainer, 0, 0) if steered else windows,
    ]


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
    # Rounded up: Lightning steps at the last batch of an epoch, however short that window is (#19987).
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
        duration = timer_duration(callback)
        elapsed = getattr(callback, "time_elapsed", None)
        if duration and elapsed is not None:
            return lambda: min(1.0, float(elapsed()) / float(duration))
    return None


def window_lengths(trainer: Any) -> dict[int, int]:
    """Return from which epoch on how many batches make one update: ``{epoch: batches}``.

    Lightning's GradientAccumulationScheduler is known by its ``scheduling``, in either namespace.
    """
    for callback in trainer.callbacks:
        # GradientAccumulationScheduler, told by its attributes because there is one in each of Lightning's namespaces.
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
