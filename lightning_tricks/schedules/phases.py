"""The decays by name, and phases that a user joins into one decay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_tricks.errors import is_list, message, require_choice, require_number
from lightning_tricks.numerics.duration import Duration
from lightning_tricks.schedules.curves import (
    Constant,
    Cosine,
    Decay,
    Function,
    Length,
    Linear,
    LinearCosine,
    OneMinusSqrt,
    Polynomial,
    Span,
)
from lightning_tricks.schedules.cycles import CosineRestarts, Noam, OneCycle
from lightning_tricks.schedules.lengths import (
    Exponential,
    InverseSqrt,
    InverseTime,
    MultiStep,
    NaturalExponential,
    Piecewise,
    Step,
)
from lightning_tricks.schedules.plateau import Plateau

# the names of the table in LRSchedule; lengths that a name cannot give are shares of the decay
DECAYS: dict[str, Decay] = {
    "constant": Constant(),
    "linear": Linear(),
    "cosine": Cosine(),
    "cosine_restarts": CosineRestarts("25%"),
    "polynomial": Polynomial(),
    "exponential": Exponential(0.01, every="100%"),
    "natural_exponential": NaturalExponential(5.0, every="100%"),
    "inverse_time": InverseTime(9.0, every="100%"),
    "inverse_sqrt": InverseSqrt(),
    "step": Step("33.4%"),  # (a little more than a third: rounding must not make a fourth step)
    "multistep": MultiStep(("50%", "75%")),
    "piecewise": Piecewise(("50%", "75%"), (1.0, 0.1, 0.01)),
    "linear_cosine": LinearCosine(),
    "one_minus_sqrt": OneMinusSqrt(),
    "one_cycle": OneCycle(),
    "noam": Noam("5%"),
    "plateau": Plateau("val_loss"),
}


# names of other libraries that need more than another name here
_STABLE = "LRSchedule('one_minus_sqrt', hold='75%'): warm-up, hold, decay"
_RESTARTS = "'cosine_restarts', or CosineRestarts(first) for a period of your own"
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("wsd", "warmup_stable_decay", "trapezoidal", "trapezoid"), _STABLE),
    **dict.fromkeys(("sgdr", "cosine_annealing_warm_restarts", "cosine_with_restarts"), _RESTARTS),
    **dict.fromkeys(("cosineannealinglr", "cosine_annealing", "cosine_with_warmup", "warmup_cosine"), "'cosine'"),
    **dict.fromkeys(("reducelronplateau", "reduce_on_plateau", "reduce_lr_on_plateau"), "Plateau('val_loss')"),
    **dict.fromkeys(("constant_with_warmup", "none"), "'constant'"),
    **dict.fromkeys(("super_convergence", "1cycle"), "'one_cycle'"),
    **dict.fromkeys(("transformer", "rsqrt"), "'inverse_sqrt' or 'noam'"),
    **dict.fromkeys(("poly", "polynomial_decay"), "'polynomial' or Polynomial(power=0.9)"),
}


@dataclass(frozen=True)
class Phase:
    """One phase of a ``Join``: from ``start`` to ``end`` along a decay.

    ``end + (start - end) * decay``; of a function the value itself.

    Args:
        decay: a name, a Decay, or a function of ``(update, length)`` within the phase.
        length: updates, ``"2ep"`` or ``"30%"`` (of the joined whole); None, for one phase, takes what the others leave.
        start: multiplier at its beginning.
        end: multiplier at its end.

    >>> Phase("linear", 100, start=0.5, end=0.1)
    Phase(decay=Linear(), length=100, start=0.5, end=0.1)
    """

    decay: str | Decay | Callable[[int, int], float]
    length: Length | None = None
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", as_decay("Phase", self.decay))
        if self.length is not None:
            Duration.parse(self.length, owner="Phase", argument="length")
        for name in ("start", "end"):
            require_number("Phase", name, getattr(self, name), low_included=True, remedy="Use a multiplier, e.g. 0.1")


@dataclass(frozen=True)
class Join(Decay):
    """Phases one after the other; each counts its updates from its own beginning.

    Args:
        phases: in their order. A warm-up beside them is refused: make it a phase.

    Example:
        >>> join = Join([Phase("linear", 2, start=0.0, end=1.0), Phase("constant", "50%"), Phase("linear")])
        >>> [join.multiplier(k, 8) for k in range(9)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """

    phases: Sequence[Phase] = field(default_factory=tuple)

    owns_warmup = True
    takes_final = False

    def __post_init__(self) -> None:
        phases: Any = self.phases
        if not is_list(phases) or not all(isinstance(phase, Phase) for phase in phases):
            text = "phases must be a list of Phase objects"
            raise TypeError(message("Join", "phases", phases, text, "Use e.g. [Phase('constant', '80%'), ...]"))
        object.__setattr__(self, "phases", tuple(self.phases))
        open_ended = [phase for phase in self.phases if phase.length is None]
        if not self.phases or len(open_ended) > 1:
            text = f"phases must be at least one, and only one without a length (not {len(open_ended)})"
            raise ValueError(message("Join", "phases", self.phases, text, "Use e.g. [Phase('constant', '80%'), ...]"))

    def resolve(self, span: Span) -> Decay:
        """Return the phases with their lengths in updates."""
        return _Joined(self._laid(span), per_epoch=span.per_epoch)

    def multiplier(self, update: int, length: int) -> float:
        """Return the multiplier at ``update``."""
        return self.resolve(Span(length=length)).multiplier(update, length)

    def _laid(self, span: Span) -> tuple[tuple[Phase, int], ...]:
        if span.length is None:
            raise ValueError("Join: the length of the run is not known. Pass LRSchedule(total=).")
        fixed = [None if p.length is None else _updates(p.length, span) for p in self.phases]
        left = span.length - sum(n for n in fixed if n is not None)
        if left < 0:
            raise ValueError(
                f"Join: the phases take {span.length - left} updates, the run has {span.length}. Shorten them."
            )
        return tuple((p, left if n is None else n) for p, n in zip(self.phases, fixed, strict=True))


@dataclass(frozen=True)
class _Joined(Decay):
    laid: tuple[tuple[Phase, int], ...]
    per_epoch: float | None

    owns_warmup = True
    takes_final = False

    def parts(self, length: int) -> list[tuple[str, int]]:
        return [
            (f"phase {i}: {phase.decay!r}".split("(")[0], size) for i, (phase, size) in enumerate(self.laid, start=1)
        ]

    def multiplier(self, update: int, length: int) -> float:
        at = 0
        while at < len(self.laid) - 1 and update >= self.laid[at][1]:
            update -= self.laid[at][1]
            at += 1
        phase, size = self.laid[at]
        decay = phase.decay
        assert isinstance(decay, Decay)
        # (a phase may have no update, and decays divide by the length)
        size = max(1, size)
        value = decay.resolve(Span(length=size, per_epoch=self.per_epoch)).multiplier(min(update, size), size)
        return value if isinstance(decay, Function) else phase.end + (phase.start - phase.end) * value


def as_decay(owner: str, decay: object, argument: str = "decay") -> Decay:
    """Return the Decay that a name, a Decay or a function means.

    Raises:
        TypeError: it is a class instead of an instance.
        ValueError: no such name; the nearest is named.
    """
    if isinstance(decay, Decay):
        return decay
    if isinstance(decay, type):
        name = decay.__name__
        names = [known for known, cls in DECAYS.items() if type(cls) is decay]
        remedy = f"Pass an instance, {name}(...)" + (f", or its name, {names[0]!r}" if names else "")
        raise TypeError(message(owner, argument, name, f"{name} is a class", remedy))
    if isinstance(decay, str) and decay.lower() in ELSEWHERE:
        rule = f"{argument} has no {decay!r}"
        raise ValueError(message(owner, argument, decay, rule, f"Write {ELSEWHERE[decay.lower()]}"))
    if not isinstance(decay, str) and callable(decay):
        return Function(decay)
    return DECAYS[require_choice(owner, argument, decay, DECAYS)]


def _updates(length: Length, span: Span) -> int:
    return Duration.parse(length, owner="Phase", argument="length").updates(span.length, span.per_epoch)
