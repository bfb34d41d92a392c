"""The arguments of PrecisionDoctor and FP32Islands, checked. LossScaleGuard's are those of ``ScalePolicy``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_tricks.errors import is_list, message, require_count


@dataclass(frozen=True)
class DoctorSpec:
    """What a ``PrecisionDoctor`` was asked for; its docstring explains the arguments."""

    every_n_steps: int | None = None
    modules: list[str] | None = None

    def __post_init__(self) -> None:
        owner = "PrecisionDoctor"
        if self.every_n_steps is not None:
            require_count(owner, "every_n_steps", self.every_n_steps, remedy="Use e.g. 50, or None for the Trainer's")
        if self.modules is not None:
            object.__setattr__(self, "modules", checked_patterns(owner, self.modules))


@dataclass(frozen=True)
class IslandsSpec:
    """What ``FP32Islands`` was asked for."""

    modules: list[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", checked_patterns("FP32Islands", self.modules))


def checked_patterns(owner: str, modules: Any) -> list[str]:
    """Return a copy of a list of names or globs, so that a list of the user's is never changed.

    Raises:
        TypeError: it is not a list of str.
        ValueError: it is empty.

    >>> checked_patterns("FP32Islands", ("head",))
    ['head']
    """
    remedy = "Use e.g. ['head', 'blocks.*.norm']"
    if not is_list(modules) or not all(isinstance(m, str) and m for m in modules):
        raise TypeError(message(owner, "modules", modules, "modules must be a list of names or globs", remedy))
    if not modules:
        raise ValueError(message(owner, "modules", modules, "modules must name at least one module", remedy))
    return list(modules)
