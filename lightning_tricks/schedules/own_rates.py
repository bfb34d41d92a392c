"""The rates that a module gave its optimizers before a scheduler overwrote them, and a replacement for a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch.optim import Optimizer

from lightning_tricks.numerics.torch_internals import chained_schedulers

_OVERWRITTEN = ("OneCycleLR", "CyclicLR")  # torch's schedulers that forget the rate that was there
_KEPT = ("lr", "momentum", "betas")


class OwnRates:
    """Notes what every parameter group held when it was given to an optimizer.

    OneCycleLR and CyclicLR write rate and momentum of their own into the groups, and keep nothing of what was there.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, with all groups noted that are given to an optimizer while it runs."""

        def noted(*arguments: Any, **named: Any) -> Any:
            with self._watching():
                return function(*arguments, **named)

        return noted

    @contextmanager
    def _watching(self) -> Any:
        add = Optimizer.add_param_group

        def add_and_note(self_: Optimizer, param_group: dict[str, Any]) -> None:
            before = len(self_.param_groups)
            add(self_, param_group)
            for new in self_.param_groups[before:]:
                self._noted.append((new, {name: new[name] for name in _KEPT if name in new}))

        # (on the class: the optimizers do not exist yet, and their constructors add the groups)
        with patch.object(Optimizer, "add_param_group", add_and_note):
            yield

    def put_back(self, optimizer: Optimizer, schedulers: Sequence[Any]) -> None:
        """Write the rates, and the momentum of a cycle, as they were before the schedulers of this optimizer."""
        overwritten = any(cls.__name__ in _OVERWRITTEN for s in _all_of(schedulers) for cls in type(s).__mro__)
        for group in optimizer.param_groups:
            noted = next((values for known, values in self._noted if known is group), None)
            if noted is None and overwritten:
                noted = {name: optimizer.defaults[name] for name in _KEPT if name in optimizer.defaults}
            elif noted is None:
                noted = {"lr": group.get("initial_lr", group["lr"])}
            # The replaced scheduler left these; one that is made later would take them for its own base.
            for name in ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"):
                group.pop(name, None)
            group.update(noted)


class NoScheduler:
    """Stands in for a scheduler of manual optimization that ``LRSchedule`` replaced: stepping it changes nothing."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.last_epoch = 0

    def step(self, *arguments: Any, **named: Any) -> None:
        """Count."""
        self.last_epoch += 1

    def get_last_lr(self) -> list[float]:
        """Return the rates as they are."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return how often it was stepped."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the count; also from the state of a real scheduler."""
        self.last_epoch = int(state.get("last_epoch", 0))


def _all_of(schedulers: Sequence[Any]) -> list[Any]:
    """Return schedulers and those inside them."""
    found = list(schedulers)
    for scheduler in schedulers:
        found += _all_of(chained_schedulers(scheduler))
    return found
