"""Another writer of the learning rate: refused, or replaced when the user asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_tricks.errors import ConflictError, message
from lightning_tricks.modules.replaced import PutBack, replaced
from lightning_tricks.schedules.own_rates import NoScheduler, OwnRates
from lightning_tricks.schedules.spec import OWNER, ScheduleSpec


def refuse_weight_averaging(spec: ScheduleSpec, callbacks: Sequence[Any]) -> None:
    """Refuse Lightning's StochasticWeightAveraging, unless the schedule is to replace its rates.

    Raises:
        ConflictError: it anneals the rate by a scheduler of its own.
    """
    callback = _of_class(callbacks, "StochasticWeightAveraging")
    if callback is not None and spec.conflict == "error":
        text = f"{type(callback).__name__} anneals the learning rate too, by a scheduler of its own"
        remedy = "Remove one of the two, or use conflict='replace': it averages then, and LRSchedule decides the rates"
        raise ConflictError(message(OWNER, "conflict", spec.conflict, text, remedy))


def remark_on_finetuning(spec: ScheduleSpec, callbacks: Sequence[Any]) -> str | None:
    """Return what to say of Lightning's BackboneFinetuning, whose rates the schedule writes over; None for nothing."""
    callback = _of_class(callbacks, "BackboneFinetuning")
    if callback is None or spec.conflict == "replace" or spec.overrides:  # overrides say how the groups are to differ
        return None
    return (
        f"{type(callback).__name__} sets the rate of the backbone at every epoch, and LRSchedule writes over it: the "
        "backbone follows the curve, from the rate with which it was unfrozen. Use overrides= for a factor of its own; "
        "conflict='replace' says that this is meant."
    )


def _of_class(callbacks: Sequence[Any], name: str) -> Any:
    """Return the first callback of a class of Lightning, told by its name, since it exists in both namespaces."""
    return next((c for c in callbacks if any(cls.__name__ == name for cls in type(c).__mro__)), None)


class SchedulerConflict:
    """What becomes of a scheduler that the module returns."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self._own_rates: OwnRates | None = None
        self._unwatch: PutBack | None = None

    def watch(self, module: Any) -> None:
        """Note the rates that the module gives its optimizers, before a scheduler that is to be replaced overwrites."""
        if self.policy == "replace" and self._unwatch is None:
            self._own_rates = OwnRates()
            noting = self._own_rates.noting(module.configure_optimizers)
            self._unwatch = replaced(module, "configure_optimizers", noting)

    def settle(self, trainer: Any) -> None:
        """Refuse the module's schedulers, or take them out and put back the rates from before them."""
        module, configs = trainer.lightning_module, trainer.strategy.lr_scheduler_configs
        theirs = [config.scheduler for config in configs if not isinstance(config.scheduler, NoScheduler)]
        if not theirs:
            return
        names = ", ".join(sorted({type(scheduler).__name__ for scheduler in theirs}))
        if self.policy == "error":
            text = f"{type(module).__name__}.configure_optimizers returns a scheduler too ({names})"
            remedy = "Return only the optimizer, remove LRSchedule, or use conflict='replace'"
            raise ConflictError(message(OWNER, "conflict", self.policy, text, remedy))
        assert self._own_rates is not None
        for optimizer in trainer.optimizers:
            own = [s for s in theirs if getattr(s, "optimizer", optimizer) is optimizer]
            self._own_rates.put_back(optimizer, own)
        if module.automatic_optimization:
            # Before a checkpoint is restored: Lightning pairs its states with this list by position, and passes over
            # the rest.
            trainer.strategy.lr_scheduler_configs = []
            return
        # Manual optimization steps its schedulers itself: `self.lr_schedulers().step()` must go on working.
        for config in configs:
            config.scheduler = NoScheduler(getattr(config.scheduler, "optimizer", trainer.optimizers[0]))

    def close(self) -> None:
        """Give the module its own ``configure_optimizers`` again."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()
