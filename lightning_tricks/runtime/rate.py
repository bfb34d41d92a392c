"""A factor on the learning rate that one trick asks for and another one writes.

A trick that changes the effective batch asks for a factor; LRSchedule, the writer of learning rates, claims the request
and multiplies it in. Where no schedule is in use, the default owner here does: ``lr = base_lr * factor``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class RateRequest:
    """The factor, and who carries it out.

    Example:
        >>> weight = __import__("torch").nn.Parameter(__import__("torch").zeros(1))
        >>> optimizer = __import__("torch").optim.SGD([weight], lr=0.1)
        >>> rate = RateRequest()
        >>> rate.ask(2.0, [optimizer])
        >>> optimizer.param_groups[0]["lr"]
        0.2
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._rewrite: Callable[[], None] | None = None

    @property
    def claimed(self) -> bool:
        """Whether a schedule writes the rates."""
        return self._rewrite is not None

    def claim(self, rewrite: Callable[[], None]) -> None:
        """Become the writer; ``rewrite`` is called when the factor changes."""
        self._rewrite = rewrite

    def ask(self, factor: float, optimizers: list[Any]) -> None:
        """Multiply the rates from the next update on by ``factor`` (instead of the one asked for before)."""
        if factor == self.factor:
            return
        ratio, self.factor = factor / self.factor, factor
        if self._rewrite is not None:
            self._rewrite()
            return
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].mul_(ratio)
                else:
                    group["lr"] *= ratio

    def close(self) -> None:
        """The run is over."""
        self._rewrite = None
