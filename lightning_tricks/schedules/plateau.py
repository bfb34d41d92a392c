"""Plateau: lower the rate when a metric stops improving. The rule of torch's ReduceLROnPlateau, as a pure function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightning_tricks.errors import message, require_choice, require_count, require_number
from lightning_tricks.schedules.curves import Decay

State = dict[str, Any]


@dataclass(frozen=True)
class Plateau(Decay):
    """Multiply the rate by ``factor`` after more than ``patience`` values in a row without improvement.

    A value improves when it is below ``best * (1 - threshold)`` (``"min"``; above ``best * (1 + threshold)`` for
    ``"max"``). A NaN is not an improvement. The rule is that of torch's ReduceLROnPlateau with
    ``threshold_mode="rel"``.

    Args:
        monitor: name of a logged metric. One of the validation is read after each validation, another one after each
            training epoch.
        mode: ``"min"`` or ``"max"``.
        factor: in (0, 1).
        patience: values in a row without improvement that are tolerated, >= 0.
        threshold: relative size of an improvement, >= 0.
        cooldown: values after a reduction that do not count, >= 0.

    Example:
        >>> rule = Plateau("val_loss", patience=1)
        >>> state = rule.init()
        >>> for value in (1.0, 1.0, 1.0):
        ...     state = rule.update(value, state)
        >>> state["multiplier"]
        0.1
    """

    monitor: str
    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0

    needs_length = False

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str) or not self.monitor:
            text = "monitor must be the name of a logged metric"
            raise TypeError(message("Plateau", "monitor", self.monitor, text, "Use e.g. 'val_loss'"))
        require_choice("Plateau", "mode", self.mode, ("min", "max"))
        require_number("Plateau", "factor", self.factor, high=1.0, remedy="Use e.g. 0.1")
        require_count("Plateau", "patience", self.patience, low=0, remedy="Use e.g. 10")
        require_number("Plateau", "threshold", self.threshold, low_included=True, remedy="Use e.g. 1e-4")
        require_count("Plateau", "cooldown", self.cooldown, low=0, remedy="Use 0")

    def multiplier(self, update: int, length: int) -> float:
        """Return 1: what the metric does is in the state."""
        return 1.0

    def init(self) -> State:
        """Return the state before the first value."""
        return {"version": 1, "best": None, "bad": 0, "cooling": 0, "multiplier": 1.0, "reductions": 0}

    def update(self, value: float, state: State) -> State:
        """Return the state after one more value of the metric."""
        better = self.improves(value, state["best"])
        cooling = max(0, state["cooling"] - 1)
        bad = 0 if better or state["cooling"] else state["bad"] + 1
        lowered = bad > self.patience
        return {
            "version": 1,
            "best": value if better else state["best"],
            "bad": 0 if lowered else bad,
            "cooling": self.cooldown if lowered else cooling,
            "multiplier": state["multiplier"] * (self.factor if lowered else 1.0),
            "reductions": state["reductions"] + lowered,
        }

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` is better than ``best`` by more than the threshold."""
        if self.mode == "min":
            return value < (math.inf if best is None else best * (1.0 - self.threshold))
        return value > (-math.inf if best is None else best * (1.0 + self.threshold))
