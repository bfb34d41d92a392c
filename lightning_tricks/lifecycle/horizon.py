"""How many updates each optimizer will make in this run: the forecast that a schedule needs, and what corrects it.

With automatic optimization the Trainer's settings give it: ``forecast_updates``. Lightning's
``estimated_stepping_batches`` returns -1 for iterable data and ignores scheduled accumulation (48 for a real 20 in one
measured case). With manual optimization, or data without a length, it is learnt from what happens: ``Pace``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_tricks.errors import TrickError
from lightning_tricks.lifecycle.lightning_internals import timer_duration
from lightning_tricks.numerics import form

PACE = form.record(
    {
        "batches": form.count,
        "in_epoch": form.count,
        "look_at": form.count,
        "per_epoch": form.none_or(form.count),
        "updates_per_epoch": form.list_of(form.count),
        "at_epoch": form.list_of(form.count),
        "steppings": form.list_of(
            form.record(
                {
                    "first": form.none_or(form.count),
                    "last": form.count,
                    "before": form.count,
                    "attempts": form.count,
                    "unseen": form.count,
                    "start": form.list_of(form.count, 2),
                    "mark": form.list_of(form.count, 2),
                }
            )
        ),
    }
)


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
    raise _unknown(trainer)


def _unknown(trainer: Any) -> UnknownHorizonError:
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


@dataclass
class Stepping:
    """What one optimizer of manual optimization was seen to do, counted in batches from the first of the run.

    How often it steps is measured over the later half of what was seen, about: runs may begin in another way.

    Args:
        first: the batch in which it made its first attempt; None before it.
        last: the latest one in which it made one.
        before: its attempts before that batch.
        attempts: all of them, when a batch began last.
        unseen: those that were made before anybody looked.
        start: a batch with an attempt, from which on the rate is measured, and the attempts before it.
        mark: the next such batch, and the attempts before it.
    """

    first: int | None = None
    last: int = 0
    before: int = 0
    attempts: int = 0
    unseen: int = 0
    start: tuple[int, int] = (0, 0)
    mark: tuple[int, int] = (0, 0)

    def see(self, batch: int, attempts: int) -> None:
        """Take in the attempts when ``batch`` begins."""
        if attempts > self.attempts:
            self.last, self.before = batch - 1, self.attempts
            if self.first is None:
                self.first, self.start, self.mark = self.last, (self.last, self.before), (self.last, self.before)
            elif self.last - self.first >= 2 * max(1, self.mark[0] - self.first):
                self.start, self.mark = self.mark, (self.last, self.before)
        self.attempts = attempts

    @property
    def settled(self) -> bool:
        """Whether it has stepped in two batches: from then on it is known how far apart these are."""
        return self.first is not None and self.last > self.first

    def rate(self, batch: int) -> float:
        """Return its attempts per batch, as known when ``batch`` begins; 1 before the first.

        Counted from one batch with an attempt to another, so that a step in every fifth batch gives a fifth.

        >>> seen = Stepping()
        >>> for batch, attempts in enumerate([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2]):
        ...     seen.see(batch, attempts)
        >>> seen.rate(10)
        0.2
        """
        if self.first is None:
            return 1.0
        if self.settled:
            return (self.before - self.start[1]) / (self.last - self.start[0])
        return (self.attempts - self.unseen) / max(1, batch - self.first)

    def at(self, end: float, batch: int) -> int:
        """Return the attempts when the run ends before batch ``end``, if it goes on like this.

        >>> Stepping(first=4, last=9, before=1, attempts=2, start=(4, 0)).at(16, 10)  # in the batches 4, 9 and 14
        3
        """
        if self.first is None:
            return self.attempts + math.ceil(end - batch)
        # (an error of rounding must not add a whole step)
        return max(self.attempts, math.ceil(self.before + (end - self.last) * self.rate(batch) - 1e-9))


@dataclass
class Pace:
    """What the optimizers of a run were seen to do: it makes forecasts where the Trainer's settings cannot.

    Args:
        batches: that have begun since the first of the run.
        in_epoch: those among them that this epoch had.
        look_at: how many will have begun when it is time for the next look.
        per_epoch: batches in the last whole epoch; None in the first.
        updates_per_epoch: attempts of each optimizer in it.
        at_epoch: attempts of each when the epoch began.
        steppings: of each.
    """

    batches: int = 0
    in_epoch: int = 0
    look_at: int = 1
    per_epoch: int | None = None
    updates_per_epoch: list[int] = field(default_factory=list)
    at_epoch: list[int] = field(default_factory=list)
    steppings: list[Stepping] = field(default_factory=list)

    def begin_batch(self, batch_idx: int, attempted: Sequence[int]) -> bool:
        """A batch begins; return whether it is time for a new forecast: often at first, less often later."""
        for attempts in attempted[len(self.steppings) :]:
            self.steppings.append(Stepping(attempts=attempts, unseen=attempts))
            self.at_epoch.append(attempts)
        for stepping, attempts in zip(self.steppings, attempted, strict=False):
            stepping.see(self.batches, attempts)
        begins = batch_idx == 0
        if begins:
            if self.in_epoch:
                self.per_epoch = self.in_epoch
                self.updates_per_epoch = [a - b for a, b in zip(attempted, self.at_epoch, strict=False)]
            self.in_epoch, self.at_epoch = 0, list(attempted)
        self.batches += 1
        self.in_epoch += 1
        looks = begins or self.batches >= self.look_at
        if looks:
            # At each of the first batches, then at distances that grow with the run: forecasts get better ever more
            # slowly.
            self.look_at = self.batches + max(1, (self.batches - 64) // 4)
        return looks

    def settled(self, index: int) -> bool:
        """Whether it is known how often an optimizer steps."""
        return index < len(self.steppings) and self.steppings[index].settled

    def rate(self, index: int) -> float:
        """Return the attempts of an optimizer per batch, as known so far; 1 before its first."""
        return self.steppings[index].rate(self.batches - 1) if index < len(self.steppings) else 1.0

    def ends(self, trainer: Any) -> list[int]:
        """Return the attempts of every optimizer at the end of a run with manual optimization.

        Raises:
            UnknownHorizonError: nothing bounds the run, or it is in the first epoch of data without a length.
        """
        batch = max(0, self.batches - 1)  # the one that begins now
        bounds = []
        attempts = sum(stepping.attempts - stepping.unseen for stepping in self.steppings)
        if trainer.max_steps is not None and trainer.max_steps >= 0:
            per_batch = attempts / batch if batch and attempts else max(1, len(trainer.optimizers))
            bounds.append(batch + max(0, trainer.max_steps - trainer.global_step) / per_batch)
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            length = trainer.num_training_batches
            length = length if math.isfinite(length) else self.per_epoch
            if length is not None:
                later = max(0, trainer.max_epochs - trainer.current_epoch - 1)
                bounds.append(batch + max(0, length - max(0, self.in_epoch - 1)) + later * length)
        if not bounds:
            raise _unknown(trainer)
        steppings = self.steppings or [Stepping() for _ in trainer.optimizers]
        return [stepping.at(min(bounds), batch) for stepping in steppings]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        steppings = [
            {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(stepping).items()}
            for stepping in self.steppings
        ]
        return {**asdict(self), "steppings": steppings}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Pace:
        """Return what ``state_dict`` gave."""
        fields: list[dict[str, Any]] = [
            {name: tuple(x) if isinstance(x, list) else x for name, x in numbers.items()}
            for numbers in state["steppings"]
        ]
        steppings = [Stepping(**numbers) for numbers in fields]
        return cls(**{**state, "steppings": steppings})


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
