"""A factor on the learning rate that one trick asks for and another one writes.

A trick that changes the effective batch asks for a factor; LRSchedule, the writer of learning rates, claims the request
and multiplies it in. Where no schedule is in use, the default owner here does: ``lr = base_lr * factor``, and the same
for what torch's schedulers compute rates from. A script that writes a rate of its own before each step is followed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lightning_tricks.errors import UnsupportedError, message
from lightning_tricks.optimizer_step.scheduled_rates import are_scheduled, multiply_rates, was_overwritten


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


def is_schedule_free(optimizer: Any) -> bool:
    """Whether an optimizer averages weights instead of decaying the rate, and has to be told when it evaluates.

    As those of the package schedulefree: ``train()`` and ``eval()`` exchange the weights.
    """
    told = callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
    return told and any("ScheduleFree" in cls.__name__ for cls in type(optimizer).__mro__)


class RateRequest:
    """The factor, and who carries it out. Factors that several tricks ask for are multiplied.

    Args:
        schedulers: gives the Trainer's schedulers.

    Example:
        >>> weight = __import__("torch").nn.Parameter(__import__("torch").zeros(1))
        >>> optimizer = __import__("torch").optim.SGD([weight], lr=0.1)
        >>> rate = RateRequest()
        >>> rate.ask(2.0, [optimizer], "accumulation"); rate.ask(0.5, [optimizer], "rollback")
        >>> optimizer.param_groups[0]["lr"], rate.factor
        (0.1, 1.0)
    """

    def __init__(self, schedulers: Callable[[], Sequence[Any]] = lambda: ()) -> None:
        self._schedulers = schedulers
        self._asked: dict[str, float] = {}
        self._left: dict[int, list[Any]] = {}  # index of an optimizer -> its rates when they were written or seen last
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

    def restore(self, factor: float, asker: str) -> None:
        """Take up a factor that the rates of a checkpoint hold already."""
        self._asked[asker] = factor
        if self._rewrite is not None:
            self._rewrite()

    def ask(self, factor: float, optimizers: list[Any], asker: str) -> None:
        """Multiply the rates from the next update on by ``factor`` (instead of the one this asker asked for before).

        Args:
            factor: on every rate.
            optimizers: all of the Trainer, in its order.
            asker: who asks.
        """
        before = self._asked.get(asker, 1.0)
        if factor == before:
            return
        self._asked[asker] = factor
        if self._rewrite is not None:
            self._rewrite()
            return
        for optimizer in optimizers:
            multiply_rates(optimizer, self._schedulers(), factor / before, limits=True)
        self._left = {i: [group["lr"] for group in o.param_groups] for i, o in enumerate(optimizers)}

    def hold(self, index: int, optimizer: Any) -> None:
        """An update comes: multiply the factor in again where the script has written a rate of its own since the last.

        Rates that are tensors are left as they are: to compare them would wait for the device. A known scheduler keeps
        the factor by itself, and may jump by just this factor where it starts again.
        """
        factor = self.factor
        if factor == 1.0 or self._rewrite is not None or are_scheduled(optimizer, self._schedulers()):
            return
        groups = optimizer.param_groups
        for group, left in zip(groups, self._left.get(index, ()), strict=False):
            plain = isinstance(left, float) and isinstance(group["lr"], float)
            if plain and was_overwritten(group["lr"], left, factor):
                group["lr"] *= factor
        self._left[index] = [group["lr"] for group in groups]

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
        self._rewrite, self._bases, self._left = None, None, {}
