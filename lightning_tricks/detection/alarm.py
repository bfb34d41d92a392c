"""Values -> verdict: a rule on a running statistic, with a baseline that is learnt from the run itself.

A statistic is followed check by check and is healthy when it is high; take ``1 - x`` of one that is healthy when low. A
check is *bad* when the value is low in absolute terms, and low against the best of the run, and not on its way up. Only
``patience`` bad checks in a row, the last one after the grace time, are an alarm; it is over when the value is clearly
good again. Plain numbers on the host: no tensor, no Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_tricks.detection.causes import Cause
from lightning_tricks.publishing.statement import Outcome, Stated, Statement

State = dict[str, Any]

_STEADY = 4.0  # standard errors of a slope
_NOTICEABLE = 1e-4  # of the limit


@dataclass(frozen=True)
class Verdict(Stated):
    """What a detector says about a run.

    Args:
        detector: its class.
        alarmed: whether there is an alarm now.
        step: of the check, on the x axis of Lightning's loggers; -1 before the first one.
        since_step: the first bad check of the alarm; None without one.
        cause: what it is called, e.g. ``"dimensional collapse"``; ``Cause.NONE``, which is empty, without an alarm.
        reasons: which quantity, by how much, against what.
        values: everything that was measured at the check.
        advice: what to try, the most promising first.

    Example:
        >>> print(Verdict("DeadUnits", True, 75, 25, Cause.DEAD_UNITS, ("96 % of net.1 are dead",), {}, ("lower lr",)))
        DeadUnits: dead units since step 25 (seen at step 75): 96 % of net.1 are dead. Try: lower lr.
    """

    detector: str
    alarmed: bool = False
    step: int = -1
    since_step: int | None = None
    cause: Cause = Cause.NONE
    reasons: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.alarmed:
            return f"{self.detector}: no alarm"
        seen = f"{self.cause} since step {self.since_step} (seen at step {self.step})"
        return f"{self.detector}: {seen}: {'; '.join(self.reasons)}. Try: {'; '.join(self.advice)}."

    @property
    def statement(self) -> Statement:
        """What was seen and what to try, in the form that it shares with findings and answers of checks."""
        if not self.alarmed:
            return Statement(Outcome.GOOD, self.detector, "no alarm", step=self.step)
        title, seen, remedy = f"{self.detector}: {self.cause}", "; ".join(self.reasons), "; ".join(self.advice)
        return Statement(Outcome.BAD, title, seen, remedy, self.since_step)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and checkpoints."""
        plain = asdict(self) | {"values": dict(self.values), "cause": self.cause.value}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Verdict:
        """Return the verdict that ``as_dict`` made this of.

        >>> verdict = Verdict("DeadUnits", True, 5, 4, Cause.DEAD_UNITS, ("a",), {"b": 1.0}, ("c",))
        >>> Verdict.from_dict(verdict.as_dict()) == verdict
        True
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return cls(**{**values, "cause": Cause.named(plain["cause"])})


def steepness(values: Sequence[float]) -> float:
    """Return the slope of a straight line through the values, over its standard error; 0 for fewer than three.

    >>> steepness([0.0, 1.0, 2.1, 2.9]) > 4, steepness([0.0, 2.0, 1.0, 0.5]) > 4
    (True, False)
    """
    n = len(values)
    if n < 3:
        return 0.0
    places = [i - (n - 1) / 2 for i in range(n)]
    mean, size = sum(values) / n, sum(x * x for x in places)
    slope = sum(x * y for x, y in zip(places, values, strict=True)) / size
    rest = sum((y - mean - slope * x) ** 2 for x, y in zip(places, values, strict=True))
    error = math.sqrt(rest / (n - 2) / size)
    # Where all points lie on a line, rounding leaves a tiny error that would make any slope look certain by chance
    # alone.
    return slope / error if error > 1e-12 * max(1.0, abs(mean)) else math.copysign(math.inf, slope) if slope else 0.0


@dataclass(frozen=True)
class Alarm:
    """When a statistic that should be high is too low.

    Args:
        below: bad only under this value; None for no absolute condition.
        of_peak: bad only under this share of the best value of the run; None for no relative condition.
        least_peak: the relative condition holds only once the best value has reached this.
        gain: a value that rose by this much over ``trend`` checks is on its way up, and not bad; None to ignore.
        growth: the same for a rise by this factor.
        trend: checks over which a rise is measured.
        patience: bad checks in a row that make an alarm.
        recovery: an alarm is over when the value is above this many times the limits that it fell below.

    Example:
        >>> alarm, state, found = Alarm(below=0.1, patience=2), Alarm(below=0.1).init(), []
        >>> for step, value in enumerate([0.5, 0.05, 0.04, 0.11, 0.5]):
        ...     started, state = alarm.update(value, step=step, ready=True, state=state)
        ...     found.append((started, state["alarmed"]))
        >>> found
        [(False, False), (False, False), (True, True), (False, True), (False, False)]
    """

    below: float | None = None
    of_peak: float | None = None
    least_peak: float = 0.0
    gain: float | None = None
    growth: float | None = None
    trend: int = 3
    patience: int = 3
    recovery: float = 1.25

    def init(self) -> State:
        """Return the state before the first check."""
        return {"version": 1, "peak": None, "last": [], "streak": 0, "first": None, "alarmed": False, "since": None}

    def limit(self, state: State) -> float:
        """Return the value below which a check is bad now; -inf when no value is."""
        limits = [] if self.below is None else [self.below]
        if self.of_peak is not None:
            peak = state["peak"]
            usable = peak is not None and peak >= self.least_peak
            limits.append(self.of_peak * peak if usable else -math.inf)
        # The lower bound decides: a check is bad only when the value is below both.
        return min(limits, default=-math.inf)

    def rising(self, value: float, state: State) -> bool:
        """Whether the value is clearly above that of ``trend`` checks ago, or rises as steadily as chance does not."""
        if not state["last"] or (self.gain is None and self.growth is None):
            return False
        recent = [*state["last"][-self.trend :], value]
        by_gain = self.gain is not None and value >= recent[0] + self.gain
        if by_gain:
            return True
        if value - recent[0] < _NOTICEABLE * abs(self.below or 0.0):
            return False  # rounding
        by_growth = self.growth is not None and value >= self.growth * recent[0] > 0
        return by_growth or steepness(recent) > _STEADY

    def update(self, value: float, *, step: int, ready: bool, state: State, waits: bool = False) -> tuple[bool, State]:
        """Return whether an alarm begins, and the state after the check.

        Args:
            value: of the statistic. NaN says that it is not defined now: nothing is concluded from that.
            ready: whether the grace time is over. Until then there is no alarm.
            waits: whether something else says that the value is on its way up.
        """
        if math.isnan(value):
            return False, state
        peak = value if state["peak"] is None else max(value, state["peak"])
        new: State = {**state, "peak": peak}
        # (once there is an alarm, it lasts until the value is good, also while it rises)
        bad = value < self.limit(new) and (state["alarmed"] or not (waits or self.rising(value, state)))
        new["last"] = [*state["last"], value][-max(1, self.trend) :]
        if state["alarmed"]:
            limit = self.limit(new)
            # (the limit may be negative, and the value has to be above it all the same)
            if value >= limit + (self.recovery - 1) * abs(limit):
                new.update(alarmed=False, streak=0, first=None, since=None)
            return False, new
        if not bad:
            new.update(streak=0, first=None)
            return False, new
        new.update(streak=state["streak"] + 1, first=state["first"] if state["streak"] else step)
        begins = ready and new["streak"] >= self.patience
        if begins:
            new.update(alarmed=True, since=new["first"])
        return begins, new

    def healthy(self, value: float, state: State) -> bool:
        """Whether the statistic is well away from an alarm: a good moment for a snapshot.

        That is: defined, half as far again above the absolute limit, and above half of the best value where a relative
        condition is in force.
        """
        if math.isnan(value) or state["alarmed"] or state["streak"] or value < self.limit(state):
            return False
        if self.below is not None and self.of_peak is None and value < 1.5 * self.below:
            return False
        peak = state["peak"]
        relative = self.of_peak is not None and peak is not None and peak >= max(self.least_peak, 1e-12)
        return not relative or value >= 0.5 * peak
