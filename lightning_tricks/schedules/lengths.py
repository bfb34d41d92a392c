"""Decays with lengths of their own, which do not need to know where the run ends.

A length is a number of updates (``500``), of epochs (``"2ep"``), or a share of the decay (``"30%"``); ``resolve`` turns
it into updates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_tricks.errors import is_list, message, require_flag, require_number
from lightning_tricks.numerics.duration import Duration
from lightning_tricks.schedules.curves import Decay, Length, Span, require_length


def _stretched(owner: str, update: int, length: int, every: Length, staircase: bool) -> float:
    """Return ``update/every``, or its whole part."""
    number = Span(length=length).updates(owner, "every", every)
    return float(update // number) if staircase else update / number


@dataclass(frozen=True)
class Exponential(Decay):
    """``gamma^(update/every)``; torch's with ``every=1``, TensorFlow's with ``staircase``.

    Args:
        gamma: in (0, 1].
        every: the length in which the rate falls by ``gamma``.
        staircase: fall in steps, one after each ``every``.

    >>> Exponential(0.5, every=10).multiplier(20, 100)
    0.25
    """

    gamma: float
    every: Length = 1
    staircase: bool = False

    needs_length = False

    def __post_init__(self) -> None:
        require_number("Exponential", "gamma", self.gamma, high=1.0, high_included=True, remedy="Use e.g. 0.999")
        require_length("Exponential", "every", self.every)
        require_flag("Exponential", "staircase", self.staircase)

    def resolve(self, span: Span) -> Decay:
        """Return the curve with ``every`` in updates."""
        return replace(self, every=span.updates("Exponential", "every", self.every))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return float(self.gamma ** _stretched("Exponential", update, length, self.every, self.staircase))


@dataclass(frozen=True)
class _Rated(Decay):
    rate: float
    every: Length = 1
    staircase: bool = False

    needs_length = False

    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_number(owner, "rate", self.rate, remedy="Use e.g. 0.001")
        require_length(owner, "every", self.every)
        require_flag(owner, "staircase", self.staircase)

    def resolve(self, span: Span) -> Decay:
        """Return the curve with ``every`` in updates."""
        return replace(self, every=span.updates(type(self).__name__, "every", self.every))


@dataclass(frozen=True)
class NaturalExponential(_Rated):
    """``exp(-rate * update/every)``, as TensorFlow's.

    Args:
        rate: of the decay, > 0.
        every: the length to which ``rate`` belongs.
        staircase: fall in steps, one after each ``every``.

    >>> round(NaturalExponential(1.0, every=10).multiplier(10, 100), 4)
    0.3679
    """

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return math.exp(-self.rate * _stretched("NaturalExponential", update, length, self.every, self.staircase))


@dataclass(frozen=True)
class InverseTime(_Rated):
    """``1 / (1 + rate * update/every)``, as TensorFlow's.

    Args:
        rate: of the decay, > 0.
        every: the length to which ``rate`` belongs.
        staircase: fall in steps, one after each ``every``.

    >>> InverseTime(1.0, every=10).multiplier(30, 100)
    0.25
    """

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return 1.0 / (1.0 + self.rate * _stretched("InverseTime", update, length, self.every, self.staircase))


@dataclass(frozen=True)
class InverseSqrt(Decay):
    """``sqrt(timescale / (update + timescale))``: as transformers' and T5's, from the end of the warm-up on.

    Args:
        timescale: None for the warm-up's length, 10,000 without one.

    >>> InverseSqrt(100).multiplier(300, 1000)
    0.5
    """

    timescale: Length | None = None

    needs_length = False

    def __post_init__(self) -> None:
        if self.timescale is not None:
            require_length("InverseSqrt", "timescale", self.timescale)

    def resolve(self, span: Span) -> Decay:
        """Return the curve with its time scale in updates."""
        if self.timescale is None:
            # (10,000 is T5's, arXiv:1910.10683)
            return replace(self, timescale=span.warmup or span.updates("InverseSqrt", "timescale", 10_000))
        return replace(self, timescale=span.updates("InverseSqrt", "timescale", self.timescale))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        scale = Span(length=length).updates("InverseSqrt", "timescale", self.timescale or 10_000)
        return math.sqrt(scale / (update + scale))


@dataclass(frozen=True)
class Step(Decay):
    """``gamma^floor(update/every)``.

    Args:
        every: length of a stair.
        gamma: by how much the rate falls, in (0, 1].

    >>> [Step(10, gamma=0.5).multiplier(k, 100) for k in (9, 10, 20)]
    [1.0, 0.5, 0.25]
    """

    every: Length
    gamma: float = 0.1

    needs_length = False

    def __post_init__(self) -> None:
        require_length("Step", "every", self.every)
        require_number("Step", "gamma", self.gamma, high=1.0, high_included=True, remedy="Use e.g. 0.1")

    def resolve(self, span: Span) -> Decay:
        """Return the curve with ``every`` in updates."""
        return replace(self, every=span.updates("Step", "every", self.every))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return float(self.gamma ** (update // Span(length=length).updates("Step", "every", self.every)))


@dataclass(frozen=True)
class MultiStep(Decay):
    """``gamma^(number of milestones reached)``.

    Args:
        milestones: points of the run (counted from its first update, warm-up included) at which the rate falls.
        gamma: by how much, in (0, 1].

    >>> [MultiStep((10, 20), gamma=0.5).multiplier(k, 100) for k in (9, 10, 20)]
    [1.0, 0.5, 0.25]
    """

    milestones: Sequence[Length]
    gamma: float = 0.1

    needs_length = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", require_points("MultiStep", "milestones", self.milestones))
        require_number("MultiStep", "gamma", self.gamma, high=1.0, high_included=True, remedy="Use e.g. 0.1")

    def resolve(self, span: Span) -> Decay:
        """Return the curve with its milestones in updates since it began."""
        # (- 1: a milestone is the first update of its step, and ``_Stairs`` wants the last one before)
        last = tuple(span.position("MultiStep", "milestones", m) - 1 for m in self.milestones)
        return _Stairs(last, tuple(self.gamma**i for i in range(len(last) + 1)))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return self.resolve(Span(length=length)).multiplier(update, length)


@dataclass(frozen=True)
class Piecewise(Decay):
    """``values[i]`` up to and including ``boundaries[i]``, as TensorFlow's.

    Args:
        boundaries: points of the run, rising.
        values: multipliers of the base rate, one more than boundaries.

    >>> [Piecewise((10,), (1.0, 0.2)).multiplier(k, 100) for k in (10, 11)]
    [1.0, 0.2]
    """

    boundaries: Sequence[Length]
    values: Sequence[float]

    takes_final = False
    needs_length = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", require_points("Piecewise", "boundaries", self.boundaries))
        given: Any = self.values
        if not is_list(given):
            text = "values must be a list of multipliers"
            raise TypeError(message("Piecewise", "values", given, text, "Use e.g. (1.0, 0.1)"))
        values = tuple(
            require_number("Piecewise", "values", v, low_included=True, remedy="Use multipliers, e.g. 0.1")
            for v in self.values
        )
        object.__setattr__(self, "values", values)
        if len(values) != len(self.boundaries) + 1:
            text = f"values must be one more than the {len(self.boundaries)} boundaries"
            raise ValueError(message("Piecewise", "values", values, text, "Give the multiplier of each piece"))

    def resolve(self, span: Span) -> Decay:
        """Return the curve with its boundaries in updates since it began."""
        return _Stairs(tuple(span.position("Piecewise", "boundaries", b) for b in self.boundaries), tuple(self.values))

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return self.resolve(Span(length=length)).multiplier(update, length)


@dataclass(frozen=True)
class _Stairs(Decay):
    last: tuple[int, ...]
    values: tuple[float, ...]

    needs_length = False

    def multiplier(self, update: int, length: int) -> float:
        return float(self.values[sum(update > point for point in self.last)])


def require_points(owner: str, argument: str, values: Sequence[Length]) -> tuple[Length, ...]:
    """Return points of the run as a tuple; refuse an empty or a falling list."""
    given: Any = values
    if not is_list(given) or not given:
        text = f"{argument} must be a list of at least one point"
        raise ValueError(message(owner, argument, given, text, "Use e.g. ['50%', '75%']"))
    lengths = [Duration.parse(v, owner=owner, argument=argument) for v in values]
    # (points in different units can only be compared once the length of the run is known)
    by_unit = {unit: [d.amount for d in lengths if d.unit == unit] for unit in {d.unit for d in lengths}}
    if any(amounts != sorted(set(amounts)) for amounts in by_unit.values()):
        raise ValueError(message(owner, argument, values, f"{argument} must rise", "Sort them, each once"))
    return tuple(values)
