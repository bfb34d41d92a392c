"""Lengths of time in training: ``500``, ``"500st"``, ``"2ep"``, ``"5%"`` -> a number of updates."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lightning_tricks.errors import message

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(st|ep|%)\s*")


@dataclass(frozen=True)
class Duration:
    """A length with a unit: ``st`` updates, ``ep`` epochs, ``%`` of the horizon.

    Example:
        >>> Duration.parse("5%", owner="LRSchedule", argument="warmup").updates(total=1000)
        50
        >>> Duration.parse("2ep", owner="LRSchedule", argument="hold").updates(total=1000, per_epoch=30)
        60
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, value: int | str, *, owner: str, argument: str) -> Duration:
        """Return the duration that ``value`` says.

        Raises:
            TypeError: ``value`` is neither an int nor a str.
            ValueError: it is negative, over 100 %, a fraction of an update, or in none of the known forms.
        """
        remedy = "Use e.g. 500, '500st' (updates), '2ep' (epochs) or '5%' (of the run)"
        # (bool is a subclass of int: True would be a length of one update)
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise TypeError(message(owner, argument, value, f"{argument} must be a whole number or a string", remedy))
        if isinstance(value, int):
            if value < 0:
                raise ValueError(message(owner, argument, value, f"{argument} must be >= 0", remedy))
            return cls(float(value), "st")
        # A number without a unit may arrive as a string, from a command line for example. The empty group stands for
        # the unit.
        found = _FORM.fullmatch(value) or re.fullmatch(r"\s*(\d+)\s*()", value)
        if found is None:
            raise ValueError(message(owner, argument, value, f"{argument} is in no known form", remedy))
        amount, unit = float(found[1]), found[2] or "st"
        if unit == "%" and amount > 100:
            raise ValueError(message(owner, argument, value, f"{argument} must be at most 100%", remedy))
        if unit == "st" and not amount.is_integer():
            raise ValueError(message(owner, argument, value, f"{argument} must be a whole number of updates", remedy))
        return cls(amount, unit)

    def updates(self, total: int | None = None, per_epoch: float | None = None) -> int:
        """Return the length in updates, rounded to the nearest.

        Args:
            total: the horizon in updates; needed for ``%``.
            per_epoch: updates per epoch; needed for ``ep``.

        Raises:
            ValueError: the unit needs a length that is not known.
        """
        if self.unit == "st":
            return int(self.amount)
        if self.unit == "%":
            if total is None:
                raise ValueError(f"{self}: the length of the run is not known. Pass a number of updates instead.")
            return round(self.amount / 100 * total)
        if per_epoch is None:
            raise ValueError(f"{self}: the length of an epoch is not known. Pass a number of updates instead.")
        return round(self.amount * per_epoch)

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"
