"""When a loss scale has failed: bounds, and how many updates in a row may be skipped. A frozen rule, no Lightning.

A skipped update is no fault: a GradScaler finds its scale by overflowing now and then. Skips without an end are one:
torch halves the scale for ever (after 150 skips it is 0.0) and nothing is trained, nothing raised, nothing said.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_tricks.errors import message, require_count, require_number
from lightning_tricks.numerics.state import State

_OWNER = "LossScaleGuard"


@dataclass(frozen=True)
class ScalePolicy:
    """Bounds of the loss scale, and the number of consecutive skips beyond which a run has failed.

    Args:
        min_scale: smallest scale, > 0.
        max_scale: largest scale, >= ``min_scale``; None for no bound.
        max_consecutive_skips: skips in a row that are still tolerated, >= 1.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.

    Example:
        >>> policy = ScalePolicy(max_consecutive_skips=2)
        >>> state = policy.init()
        >>> for skipped in (True, False, True, True, True):
        ...     state = policy.update(skipped, state)
        >>> state["consecutive"], state["skipped"], policy.failed(state["consecutive"])
        (3, 4, True)
    """

    min_scale: float = 1.0
    max_scale: float | None = None
    max_consecutive_skips: int = 20

    def __post_init__(self) -> None:
        require_number(_OWNER, "min_scale", self.min_scale, remedy="Use e.g. 1.0")
        if self.max_scale is not None:
            require_number(_OWNER, "max_scale", self.max_scale, remedy="Use e.g. 65536.0, or None for no bound")
            if self.max_scale < self.min_scale:
                rule = f"max_scale must be at least min_scale, {self.min_scale:g}"
                raise ValueError(message(_OWNER, "max_scale", self.max_scale, rule, "Use e.g. 65536.0"))
        require_count(_OWNER, "max_consecutive_skips", self.max_consecutive_skips, remedy="Use e.g. 20")

    def init(self) -> State:
        """Return the state before the first attempt: plain numbers, tensors where only a device knows."""
        return {"version": 1, "consecutive": 0, "skipped": 0}

    def update(self, skipped: bool | Tensor, state: State) -> State:
        """Return the state after an attempt.

        Args:
            skipped: whether it was; a 0-d tensor (1.0 for skipped) where only the device knows. Not read here.
            state: the one before.
        """
        if isinstance(skipped, Tensor):
            flag = skipped.detach().to(torch.float32).clamp(max=1.0)
            return {
                **state,
                "consecutive": (state["consecutive"] + 1) * flag,
                "skipped": state["skipped"] + flag,
            }
        return {
            **state,
            "consecutive": state["consecutive"] + 1 if skipped else 0,
            "skipped": state["skipped"] + int(skipped),
        }

    def failed(self, consecutive: float) -> bool:
        """Whether that many skips in a row are too many."""
        return consecutive > self.max_consecutive_skips


def on_host(state: State) -> State:
    """Return the state with plain numbers only (one host read where only a device knew).

    >>> on_host({"version": 1, "consecutive": torch.tensor(2.0), "skipped": 5})
    {'version': 1, 'consecutive': 2, 'skipped': 5}
    """
    return {name: int(value) for name, value in state.items()}
