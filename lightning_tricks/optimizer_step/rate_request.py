"""A factor on the learning rate that one trick asks for and another one writes.

A trick that changes the effective batch asks for a factor; LRSchedule, the writer of learning rates, claims the request
and multiplies it in. Where no schedule is in use, the default owner here does: ``lr = base_lr * factor``, and the same
for what torch's schedulers compute rates from.

Where somebody else writes the rates, a script or a scheduler that computes them in its own way, nobody can say whether
the next one will have the factor in it. There the groups hold the rates without it between updates, and with it while
the optimizer steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lightning_tricks.errors import UnsupportedError, message
from lightning_tricks.optimizer_step.rates_in_steps import RatesInSteps
from lightning_tricks.optimizer_step.scheduled_rates import (
    are_scheduled,
    are_scheduled_otherwise,
    multiply_group,
    multiply_rates,
    was_overwritten,
)

_BEGINNING = 8  # updates; who writes a rate in these has a warmup, and computes it afresh
_SURE, _SURER = 4.0, 30.0  # how clear it must be which of two readings of a new rate is right, later and in these

Group = tuple[int, int]  # number of the optimizer, and of its group


def require_rates(owner: str, optimizer: Any) -> None:
    """Refuse an optimizer whose groups have no learning rate to be read and written.

    Raises:
        UnsupportedError: it computes its steps itself, as ALIG does, or transformers' Adafactor with ``lr=None``.
    """
    for group in optimizer.param_groups:
        rate = group.get("lr")
        if not isinstance(rate, (int, float, Tensor)):
            name = type(optimizer).__name__
            text = f"{name} has no learning rate of its own in its groups" if rate is None else f"its lr is {rate!r}"
            remedy = f"Give it one (lr=1e-3), or leave {owner} out"
            raise UnsupportedError(message(owner, "optimizer", name, text, remedy))


def has_rate(group: dict[str, Any]) -> bool:
    """Whether the rate of a group is what its optimizer steps with, and not one that it computes itself.

    >>> has_rate({"lr": 0.1}), has_rate({"lr": None}), has_rate({"lr": 0.1, "relative_step": True})
    (True, False, False)
    """
    return isinstance(group.get("lr"), (int, float, Tensor)) and not group.get("relative_step")


def is_schedule_free(optimizer: Any) -> bool:
    """Whether an optimizer averages weights instead of decaying the rate, and has to be told when it evaluates.

    As those of the package schedulefree: ``train()`` and ``eval()`` exchange the weights.
    """
    told = callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
    return told and any("ScheduleFree" in cls.__name__ for cls in type(optimizer).__mro__)


class RateRequest:
    """The factor, and who carries it out. Factors that several tricks ask for are multiplied."""

    def __init__(self, schedulers: Callable[[], Sequence[Any]] = lambda: ()) -> None:
        self._schedulers = schedulers
        self._asked: dict[str, float] = {}
        self._left: dict[int, list[Any]] = {}  # index of an optimizer -> its rates at the last update, as far as known
        self._updates: dict[int, int] = {}  # index of an optimizer -> updates that were seen
        self._written: set[Group] = set()  # whose rates somebody writes
        self._keeps: set[Group] = set()  # of whom it is known that the factor stays in what they write
        self._inside: dict[Group, float] = {}  # the factor that a rate between updates has in it
        self._inside_else = 1.0  # the same of all others: a checkpoint of an earlier version does not say which
        self.in_steps = RatesInSteps()
        self._needed = False  # whether there is, or was, a factor
        self.ready: set[int] = set()  # numbers of the optimizers for whose next update ``hold`` was called
        self._rewrite: Callable[[], None] | None = None
        self._bases: Callable[[int], list[float]] | None = None

    @property
    def factor(self) -> float:
        """The product of all factors that were asked for."""
        return math.prod(self._asked.values())

    @property
    def claimed(self) -> bool:
        """Whether a schedule writes the rates."""
        return self._rewrite is not None

    def claim(self, rewrite: Callable[[], None], bases: Callable[[int], list[float]]) -> None:
        """Become the writer.

        Args:
            rewrite: called when the factor changes.
            bases: index of an optimizer -> the base rates of its groups, those at the height of the curve.
        """
        self._rewrite, self._bases = rewrite, bases

    def inside(self) -> list[list[float]] | None:
        """Return which factor the rates between updates hold, group by group of each optimizer, for a checkpoint."""
        if self._inside_else != 1.0:
            return None
        found: list[list[float]] = []
        for (index, number), factor in sorted(self._inside.items()):
            found += [[] for _ in range(index + 1 - len(found))]
            found[index] += [1.0] * (number - len(found[index])) + [factor]
        return found

    def restore(self, factor: float, asker: str, inside: Sequence[Sequence[float]] | None = None) -> None:
        """Take up a factor.

        Args:
            inside: what ``inside`` returned, for the rates that the checkpoint holds; None where they hold all of it.
        """
        self._asked[asker], self._needed = factor, self._needed or factor != 1.0
        if inside is None:
            self._inside_else *= factor
        self._inside |= {(i, j): value for i, groups in enumerate(inside or ()) for j, value in enumerate(groups)}
        if self._rewrite is not None:
            self._rewrite()

    def ask(self, factor: float, optimizers: list[Any], asker: str) -> None:
        """Multiply the rates from the next update on by ``factor`` (instead of the one this asker asked for before)."""
        if factor == self._asked.get(asker, 1.0):
            return
        self._asked[asker], self._needed = factor, self._needed or factor != 1.0
        if self._rewrite is not None:
            self._rewrite()
            return
        for index, optimizer in enumerate(optimizers):
            self.in_steps.give_back(index)
            self._show(index, optimizer)

    def hold(self, index: int, optimizer: Any) -> None:
        """An update comes: see to it that it is made with the factor, whoever has written a rate since the last one."""
        if self._rewrite is not None:
            return
        if self.in_steps.kept:
            self.in_steps.give_back(index)
        self.ready.add(index)
        changed = self._changed(index, optimizer)
        self._updates[index] = self._updates.get(index, 0) + 1
        if not self._needed:
            for number, _, _ in changed:
                self._written.add((index, number))
            return
        if are_scheduled(optimizer, self._schedulers()):
            return
        for number, was, rate in changed:
            self._read((index, number), was, rate)
        self._show(index, optimizer)
        for number, group in enumerate(optimizer.param_groups):
            missing = self.factor / self._inside.get((index, number), self._inside_else)
            if missing != 1.0 and has_rate(group):
                self.in_steps.multiply(index, group, missing)

    def release(self, index: int | None = None) -> None:
        """An update is over, or the batch of all: who writes rates sees their own again."""
        if index is None:
            self.in_steps.give_all_back()
            self.ready.clear()
        else:
            self.in_steps.give_back(index)
            self.ready.discard(index)

    def _changed(self, index: int, optimizer: Any) -> list[tuple[int, float, float]]:
        """Return number, rate at the last update and rate now of the groups for which somebody has written one."""
        left, found = self._left.setdefault(index, []), []
        # (at every update: without a call where a rate is a plain number)
        for number, group in enumerate(optimizer.param_groups):
            rate = group.get("lr")
            if type(rate) is not float:
                rate = _on_host(rate)
            if number == len(left):
                left.append(rate)
            elif rate != left[number]:
                was, left[number] = left[number], rate
                if was is not None and rate is not None:
                    found.append((number, was, rate))
        return found

    def _show(self, index: int, optimizer: Any) -> None:
        """Multiply the rates that nobody else writes, and those whose schedulers are known, where all can see it."""
        groups, schedulers, factor = optimizer.param_groups, self._schedulers(), self.factor
        if are_scheduled(optimizer, schedulers):
            multiply_rates(optimizer, schedulers, factor / self._inside.get((index, 0), self._inside_else), limits=True)
            self._inside.update(((index, number), factor) for number in range(len(groups)))
        elif not are_scheduled_otherwise(optimizer, schedulers):
            for number, group in enumerate(groups):
                key = (index, number)
                plain = key not in self._written or key in self._keeps
                missing = factor / self._inside.get(key, self._inside_else)
                if plain and missing != 1.0 and _on_host(group.get("lr")) is not None:
                    multiply_group(group, missing, limits=True)
                    self._inside[key] = factor
        self._left[index] = [_on_host(group.get("lr")) for group in groups]

    def _read(self, key: Group, was: float, rate: float) -> None:
        """Somebody has written a rate: learn from it whether the factor is still inside."""
        inside = self._inside.get(key, self._inside_else)
        afresh = None
        if inside == 1.0:
            self._written.add(key)
        elif key not in self._keeps:
            early = self._updates[key[0]] <= _BEGINNING
            afresh = was_overwritten(rate, was, inside, _SURER if early else _SURE)
            afresh = early if afresh is None else afresh
        if afresh:
            self._written.add(key)
            self._inside[key] = 1.0
        elif afresh is False:
            self._keeps.add(key)

    def height(self, index: int, optimizer: Any) -> float | Tensor:
        """Return the rate of an optimizer now, over its highest one, in [0, 1]: how much an update counts as learning.

        1 where no warm-up or decay is known. A tensor where the rate is one: it is not read.
        """
        group = optimizer.param_groups[0]
        known = self._bases(index)[:1] if self._bases is not None else []
        highest = (known or [0.0])[0] * self.factor
        if not highest:
            # torch's schedulers keep their base rate in ``initial_lr``, and OneCycleLR its peak in ``max_lr``.
            names = [group[n] for n in ("initial_lr", "max_lr") if n in group]
            highest = max((float(v) for v in names if not isinstance(v, Tensor)), default=0.0)
        if not highest:
            return 1.0
        now = group["lr"]
        return (now / highest).clamp(max=1.0) if isinstance(now, Tensor) else min(1.0, float(now) / highest)

    def close(self) -> None:
        """The run is over."""
        self.release()
        self._rewrite, self._bases, self._left = None, None, {}


def _on_host(rate: Any) -> float | None:
    """Return a rate that the host knows; None for one on another device: to read it would wait for that."""
    if isinstance(rate, Tensor):
        return float(rate) if rate.device.type == "cpu" else None
    return float(rate) if isinstance(rate, (int, float)) else None
