"""Decay curves: multipliers of the base learning rate as functions of (update, length).

Here: what every curve has, and the curves that only stretch with the run. A new curve is a frozen dataclass with
``multiplier`` and a line in ``phases.DECAYS``; nothing else has to change.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from lightning_tricks.errors import message, require_number
from lightning_tricks.numerics.duration import Duration

Length = int | str


@dataclass(frozen=True)
class Span:
    """Where in a run a decay lies.

    Args:
        warmup: updates of warm-up before it.
        start: update at which it begins.
        length: its updates; None when the end of the run is not known.
        per_epoch: updates per epoch; None when not known.
        timed: the run is measured by the wall clock, so that lengths can be shares only.
    """

    warmup: int = 0
    start: int = 0
    length: int | None = None
    per_epoch: float | None = None
    timed: bool = False

    def updates(self, owner: str, argument: str, value: Length) -> int:
        """Return a length inside the decay in updates, at least 1; ``%`` is of the decay."""
        return max(1, self._parsed(owner, argument, value).updates(self.length, self.per_epoch))

    def position(self, owner: str, argument: str, value: Length) -> int:
        """Return a point of the run, counted from the beginning of the decay; ``%`` is of the run."""
        total = None if self.length is None else self.start + self.length
        return self._parsed(owner, argument, value).updates(total, self.per_epoch) - self.start

    def _parsed(self, owner: str, argument: str, value: Length) -> Duration:
        length = Duration.parse(value, owner=owner, argument=argument)
        if self.timed and length.unit != "%":
            text = "max_time bounds this run, so its curve is measured in shares of time"
            raise ValueError(message(owner, argument, value, text, "Use e.g. '30%', or LRSchedule(total=)"))
        return length


@dataclass(frozen=True)
class Decay(ABC):
    """A curve that starts at 1 at update 0. ``length`` is the number of updates until the end of the run.

    ``owns_warmup``: the curve has its own, and another one is refused. ``takes_final``: ``LRSchedule(final=)`` lifts
    it to ``final + (1-final)*multiplier``. ``needs_length``: it cannot be drawn while the end of the run is unknown.
    """

    owns_warmup: ClassVar[bool] = False
    takes_final: ClassVar[bool] = True
    needs_length: ClassVar[bool] = True

    @abstractmethod
    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update`` in ``0..length``, with ``length >= 1``."""

    def resolve(self, span: Span) -> Decay:
        """Return the same curve with all its lengths in updates."""
        return self

    def lr_fraction(self, update: int, length: int) -> float:
        """Return 1 where the rate is highest, 0 where it is lowest: an inverse momentum follows it."""
        # (a user's function may leave [0, 1])
        return min(1.0, max(0.0, self.multiplier(update, length)))

    def parts(self, length: int) -> list[tuple[str, int]]:
        """Return names and lengths of its parts, for pictures."""
        return [("decay", length)]


@dataclass(frozen=True)
class Constant(Decay):
    """``1``.

    >>> Constant().multiplier(7, 10)
    1.0
    """

    takes_final = False
    needs_length = False

    def multiplier(self, update: int, length: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear(Decay):
    """``1 - update/length``.

    >>> Linear().multiplier(5, 10)
    0.5
    """

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return 1.0 - update / length


@dataclass(frozen=True)
class Cosine(Decay):
    """``(1 + cos(pi * update/length)) / 2``. Reference: Loshchilov, Hutter, "SGDR", 2017, arXiv:1608.03983.

    >>> round(Cosine().multiplier(5, 10), 12)
    0.5
    """

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return (1.0 + math.cos(math.pi * update / length)) / 2.0


@dataclass(frozen=True)
class OneMinusSqrt(Decay):
    """``1 - sqrt(update/length)``: the short decay after a long hold. Reference: Hägele et al., 2024, arXiv:2405.18392.

    >>> OneMinusSqrt().multiplier(25, 100)
    0.5
    """

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return 1.0 - math.sqrt(update / length)


@dataclass(frozen=True)
class Polynomial(Decay):
    """``(1 - update/length)^power``; 0.9 is DeepLab's. Reference: Chen et al., 2017, arXiv:1606.00915.

    Args:
        power: > 0; 1 is linear.

    >>> Polynomial(2.0).multiplier(5, 10)
    0.25
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        require_number("Polynomial", "power", self.power, remedy="Use e.g. 0.9")

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return float((1.0 - update / length) ** self.power)


@dataclass(frozen=True)
class LinearCosine(Decay):
    """``(alpha + 1 - x) * (1 + cos(2 pi num_periods x))/2 + beta``, ``x = update/length``, as TensorFlow's.

    Args:
        num_periods: of the cosine.
        alpha: added to the linear part.
        beta: added to the whole.

    Reference: Bello et al., "Neural Optimizer Search", 2017, arXiv:1709.07417.

    >>> LinearCosine(beta=0.0).multiplier(0, 10)
    1.0
    """

    num_periods: float = 0.5
    alpha: float = 0.0
    beta: float = 0.001

    def __post_init__(self) -> None:
        for name in ("num_periods", "alpha", "beta"):
            require_number("LinearCosine", name, getattr(self, name), low_included=True, remedy="Use the default")

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        x = update / length
        return (self.alpha + 1.0 - x) * (1.0 + math.cos(2.0 * math.pi * self.num_periods * x)) / 2.0 + self.beta


@dataclass(frozen=True, repr=False)
class Function(Decay):
    """A user's function as a curve.

    Args:
        function: called with ``(update, length)``, counted from the end of warm-up and hold; returns a multiplier.

    >>> Function(lambda update, length: 0.5 ** update).multiplier(2, 10)
    0.25
    """

    function: Callable[[int, int], float]

    takes_final = False

    def __post_init__(self) -> None:
        function: object = self.function
        if not callable(function):
            text = "function must be a function of (update, length)"
            raise TypeError(message("Function", "function", function, text, "Use e.g. lambda update, length: 0.5"))

    def multiplier(self, update: int, length: int) -> float:
        """Return what the function returns."""
        return float(self.function(update, length))

    def __repr__(self) -> str:
        # The name without an address: it is compared with the one in a checkpoint of another process.
        return f"Function({getattr(self.function, '__qualname__', type(self.function).__name__)})"


def warmup_factor(update: int, length: int, start: float, shape: str) -> float:
    """Return the warm-up's multiplier at ``update`` in ``0..length-1``; 1 at the last.

    With ``x = (update+1)/length``, so that no update is wasted at rate 0: linear ``start + (1-start)*x``; cosine
    ``start + (1-start)*(1-cos(pi x))/2``; exponential ``start^(1-x)``; constant ``start``.

    Args:
        update: from 0.
        length: updates of warm-up, >= 1.
        start: multiplier before the first update, in [0, 1].
        shape: ``"linear"``, ``"cosine"``, ``"exponential"`` or ``"constant"``.

    Reference: Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677 (gradual and constant warm-up).

    Example:
        >>> [warmup_factor(k, 4, 0.0, "linear") for k in range(4)]
        [0.25, 0.5, 0.75, 1.0]
    """
    # (+ 1: the first update would otherwise be made with a rate of 0)
    x = (update + 1) / length
    if shape == "constant":
        return start
    if shape == "exponential":
        return float(start ** (1.0 - x))
    rise = x if shape == "linear" else (1.0 - math.cos(math.pi * x)) / 2.0
    return start + (1.0 - start) * rise


def require_length(owner: str, argument: str, value: object) -> None:
    """Refuse a value that is not a length, and a length of 0."""
    if Duration.parse(value, owner=owner, argument=argument).amount == 0:  # type: ignore[arg-type]
        raise ValueError(message(owner, argument, value, f"{argument} must be > 0", "Use e.g. 500, '2ep' or '30%'"))
