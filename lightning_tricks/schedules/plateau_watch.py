"""Which values of a metric a plateau has seen, and for which it still waits. Every event gives a new watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lightning_tricks.errors import TrickError, message, nearest
from lightning_tricks.numerics.shards import reduced
from lightning_tricks.schedules.plateau import Plateau, State


@dataclass(frozen=True)
class PlateauWatch:
    """A plateau's rule and what it has seen.

    Args:
        rule: when the rate falls.
        state: of the rule.
        of_validation: the metric is one of the validation; then a training epoch shows nothing new.
        awaited: the epoch whose metric is still missing; None where nothing is.
        observed: the epoch whose metric was seen last.
    """

    rule: Plateau
    state: State
    of_validation: bool = False
    awaited: int | None = None
    observed: int | None = None

    @classmethod
    def of(cls, rule: Plateau) -> PlateauWatch:
        """Return the watch before the first value."""
        return cls(rule, rule.init())

    def seen(self, value: float, epoch: int) -> PlateauWatch:
        """Return the watch after one more value of the metric."""
        return replace(self, state=self.rule.update(value, self.state), observed=epoch)

    def restored(self, state: Mapping[str, Any]) -> PlateauWatch:
        """Return what a checkpoint holds; the watch as it is where it holds nothing, or that of another decay."""
        of_validation = state.get("of_validation", self.of_validation)
        return replace(self, state=state.get("plateau") or self.state, of_validation=of_validation)

    def looked(self, metrics: Mapping[str, Any], every: int | None, *, strict: bool) -> PlateauWatch:
        """Return the watch after a look for the metric of the epoch that has ended.

        Args:
            every: epochs from one validation to the next; None where it counts batches instead.
            strict: whether a metric that never came is an error by now.

        Raises:
            TrickError: no such metric was logged; the message names the nearest one.
        """
        epoch = self.awaited
        # Before the first validation is due, nobody can know whether the metric will come.
        if epoch is None or self.observed is not None or not every or epoch + 1 < every:
            return replace(self, awaited=None if self.observed == epoch else epoch)
        if strict:
            near = nearest(self.rule.monitor, sorted(metrics))
            remedy = f"Did you mean {near!r}?" if near else f"Logged are: {', '.join(sorted(metrics)) or 'none'}"
            text = f"no such metric was logged in epoch {epoch}"
            raise TrickError(message("Plateau", "monitor", self.rule.monitor, text, remedy))
        return self

    def factor(self, final: float) -> float:
        """Return the factor on the rate; ``final`` is the lowest one.

        >>> watch = PlateauWatch.of(Plateau("val_loss", patience=0))
        >>> watch.seen(1.0, 0).seen(1.0, 1).factor(final=0.0), watch.factor(final=0.5)
        (0.1, 1.0)
        """
        lowered: float = self.state["multiplier"]
        return 1.0 if lowered == 1.0 else max(lowered, final)


def shown_metric(watch: PlateauWatch, trainer: Any, metrics: Mapping[str, Any]) -> PlateauWatch:
    """Return the watch after its metric of this epoch; the same one where it was not logged.

    On several processes it sees the mean over all of them, so that every process decides alike.
    """
    value = metrics.get(watch.rule.monitor)
    if value is None:
        return watch
    if trainer.world_size > 1:
        # The module may have logged it without ``sync_dist``, but all ranks have to lower the rate at the same time.
        value = torch.as_tensor(float(value), device=trainer.strategy.root_device)
        value = reduced(trainer.strategy, value, "mean")
    return watch.seen(float(value), trainer.current_epoch)


def shown_what_came_late(watch: PlateauWatch, trainer: Any, *, strict: bool) -> PlateauWatch:
    """Return the watch after a look for the metric of an epoch that has just ended.

    A module that logs in ``on_train_epoch_end`` does so after the callbacks.

    Raises:
        TrickError: with ``strict``, the metric was never logged.
    """
    epoch = watch.awaited
    if epoch is None:
        return watch
    metrics = trainer.callback_metrics
    if watch.observed != epoch:
        seen = shown_metric(watch, trainer, metrics)
        watch = watch if seen is watch else replace(seen, observed=epoch)  # (the next epoch may have begun)
    return watch.looked(metrics, trainer.check_val_every_n_epoch, strict=strict)
