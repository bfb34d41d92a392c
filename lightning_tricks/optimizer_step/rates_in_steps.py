"""Rates that are multiplied while an optimizer steps, and only then: who writes them between updates sees their own."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class _Kept(NamedTuple):
    """A rate that was multiplied.

    Args:
        own: the rate as it was found.
        put: what was written in its place; the tensor itself where it is one.
    """

    group: dict[str, Any]
    own: Any
    put: Any


class RatesInSteps:
    """Multiplies rates of groups before a step, and gives them back after it.

    Example:
        >>> group, rates = {"lr": 0.1}, RatesInSteps()
        >>> rates.multiply(0, group, 0.5); group["lr"]
        0.05
        >>> rates.give_back(0); group["lr"]
        0.1
    """

    def __init__(self) -> None:
        self.kept: dict[int, list[_Kept]] = {}  # by the number of an optimizer

    def multiply(self, index: int, group: dict[str, Any], factor: float) -> None:
        """Multiply the rate of a group of an optimizer; a tensor in place: a compiled step reads this one."""
        own = group["lr"]
        if isinstance(own, Tensor):
            kept = _Kept(group, own.detach().clone(), own)
            own.mul_(factor)
        else:
            kept = _Kept(group, own, own * factor)
            group["lr"] = kept.put
        self.kept.setdefault(index, []).append(kept)

    def give_back(self, index: int) -> None:
        """Put back the rates of an optimizer, but for those that were written meanwhile."""
        for group, own, put in self.kept.pop(index, ()):
            if isinstance(put, Tensor) and group["lr"] is put:
                put.copy_(own)
            elif not isinstance(put, Tensor) and not isinstance(group["lr"], Tensor) and group["lr"] == put:
                group["lr"] = own

    def give_all_back(self) -> None:
        """Put back the rates of all optimizers."""
        for index in list(self.kept):
            self.give_back(index)
