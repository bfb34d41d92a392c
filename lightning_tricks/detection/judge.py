"""The judgement of a detector: values of a check -> alarms, verdict, history. Plain numbers on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_tricks.detection.alarm import Alarm, Verdict
from lightning_tricks.detection.alarm import State as AlarmState
from lightning_tricks.detection.causes import Explained
from lightning_tricks.numerics import form

MOST_POINTS = 4096  # of a curve that is kept for pictures and trends
_MOST_ALARMS = 256  # that are kept of a run
_ALARM = form.record(
    {
        "version": form.count,
        "peak": form.none_or(form.measured),
        "last": form.list_of(form.measured),
        "streak": form.count,
        "first": form.none_or(form.step),
        "alarmed": form.flag,
        "since": form.none_or(form.step),
    }
)
VERDICT = form.record(
    {
        **{"detector": form.text, "alarmed": form.flag, "step": form.step, "since_step": form.none_or(form.step)},
        **{"cause": form.text, "reasons": form.list_of(form.text), "values": form.dict_of(form.measured)},
        "advice": form.list_of(form.text),
    }
)
FORMS: dict[str, form.Form] = {"alarms": form.dict_of(_ALARM), "progress": form.least_zero, "verdict": VERDICT}
OPTIONAL_FORMS: dict[str, form.Form] = {
    "raised": form.list_of(form.record({"verdict": VERDICT, "checks": form.count})),
    "updates": form.least_zero,
    "highest_rate": form.least_zero,
}
_LONG = 4.0  # times the grace: a warm-up that has not come far by then is taken for the schedule


class Raised(NamedTuple):
    """An alarm of the run: its verdict, and at how many checks it has been on."""

    verdict: Verdict
    checks: int = 1


def keep_bounded(*curves: list[Any]) -> None:
    """Thin out curves of one length that have grown long: of the older half every second point goes.

    >>> curve = list(range(5000))
    >>> keep_bounded(curve); len(curve), curve[:3], curve[-2:]
    (3976, [0, 2, 4], [4998, 4999])
    """
    for curve in curves:
        if len(curve) > MOST_POINTS:
            del curve[1 : MOST_POINTS // 2 : 2]


def worst(raised: Sequence[Raised]) -> Verdict | None:
    """Return the verdict with the most severe cause, among equal ones of the longest alarm, among those the first."""
    found = max(raised, key=lambda r: (r.verdict.cause.severity, r.checks), default=None)
    return None if found is None else found.verdict


class Judge:
    """Follows the statistics of one detector from check to check.

    Args:
        rules: the alarms by the names of their statistics.
        grace_factor: by how many times the grace of an alarm is longer.
    """

    def __init__(self, detector: str, rules: Mapping[str, Alarm], grace_factor: Callable[[str], float]) -> None:
        self.detector, self.rules, self._grace_factor = detector, dict(rules), grace_factor
        self.states: dict[str, AlarmState] = {name: alarm.init() for name, alarm in self.rules.items()}
        self.grace = 0.0  # in updates at the highest learning rate
        self.progress = 0.0  # the same unit: what was learned so far
        self.updates = 0.0
        self.highest = 0.0  # rate so far, as a share of the one that the schedule begins from
        self.step = -1  # of the check
        self.verdict = Verdict(detector)  # of the present
        self.raised: list[Raised] = []
        self.history: list[tuple[int, dict[str, float]]] = []
        self.healthy = False  # whether all that is followed was healthy at the last check
        self.waits: set[str] = set()  # alarms of which the probe says at a check that what they follow is on its way up

    @property
    def active(self) -> list[str]:
        """The alarms that are on."""
        return [name for name, state in self.states.items() if state["alarmed"]]

    def advance(self, updates: float, rate: float) -> None:
        """Count what was learned since the last check.

        The rate is known against the one that the schedule multiplies, which it need not ever reach: a function of
        ``LambdaLR`` that returns a rate in place of a factor keeps it a thousand times lower. After four times the
        grace the highest rate so far counts in its place.

        Args:
            rate: now, over the one that the schedule multiplies, in [0, 1].
        """
        self.updates, self.highest = self.updates + updates, max(self.highest, rate)
        late = self.updates > _LONG * self.grace and self.highest > 0
        self.progress += updates * (rate / self.highest if late else rate)

    def in_grace(self, name: str) -> bool:
        """Whether it is too early for an alarm."""
        return self.progress < self.grace * self._grace_factor(name)

    def suspects(self, name: str, value: float) -> bool:
        """Whether only the grace time, or patience, keeps a value from being an alarm."""
        return value < self.rules[name].limit(self.states[name])

    def follow(self, statistics: Mapping[str, float]) -> list[str]:
        """Let every alarm see its statistic at this check; return the names of those that begin."""
        begun, healthy = [], True
        for name, value in statistics.items():
            alarm, ready, state = self.rules[name], not self.in_grace(name), self.states[name]
            waits = name in self.waits
            started, self.states[name] = alarm.update(value, step=self.step, ready=ready, state=state, waits=waits)
            healthy &= alarm.healthy(value, self.states[name])
            if started:
                begun.append(name)
        # (in the grace nothing has shown yet: to go back to a state of it may be to go back to the failure)
        self.healthy = healthy and bool(statistics) and self.progress >= self.grace
        return begun

    def follow_one(self, name: str, value: float, step: int) -> bool:
        """Let one alarm see its statistic between two checks; return whether it begins."""
        begins, self.states[name] = self.rules[name].update(
            value, step=step, ready=not self.in_grace(name), state=self.states[name]
        )
        return begins

    def restart(self, name: str) -> None:
        """Forget what an alarm has learnt of the run: what it follows is of another task. One that is on goes on."""
        if not self.states[name]["alarmed"]:
            self.states[name] = self.rules[name].init()

    def conclude(
        self, begun: list[str], values: Mapping[str, float], explain: Callable[[list[str]], Explained]
    ) -> Verdict | None:
        """Renew the verdict after ``follow``; return it where there is a new alarm.

        Repeats of the same cause are not new.
        """
        active = self.active
        if self.raised and self.verdict.alarmed and active:
            self.raised[-1] = self.raised[-1]._replace(checks=self.raised[-1].checks + 1)
        if not begun:
            if not active:
                self.verdict = Verdict(self.detector, step=self.step, values=dict(values))
            return None
        return self.begin(active, values, self.step, explain)

    def begin(
        self, active: list[str], values: Mapping[str, float], step: int, explain: Callable[[list[str]], Explained]
    ) -> Verdict | None:
        """Renew the verdict, since an alarm begins; return it, or None where the same cause is told already."""
        cause, reasons, advice = explain(active)
        if self.verdict.alarmed and self.verdict.cause == cause:
            return None
        since = min(self.states[name]["since"] for name in active)
        self.verdict = Verdict(self.detector, True, step, since, cause, reasons, dict(values), advice)
        self.raised = [*self.raised, Raised(self.verdict)][-_MOST_ALARMS:]
        return self.verdict

    def remember(self, values: dict[str, float]) -> None:
        """Keep the values of this check for pictures."""
        self.history.append((self.step, values))
        keep_bounded(self.history)

    def rolled_back(self) -> None:
        """Start again with the same grace: the run is back where it was. The same cause may recur, and is reported."""
        self.states = {name: alarm.init() for name, alarm in self.rules.items()}
        self.progress, self.verdict = 0.0, Verdict(self.detector)

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "alarms": {name: dict(state) for name, state in self.states.items()},
            "progress": self.progress,
            "updates": self.updates,
            "highest_rate": self.highest,
            "verdict": self.verdict.as_dict(),
            "raised": [{"verdict": r.verdict.as_dict(), "checks": r.checks} for r in self.raised],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned.

        Raises:
            ValueError: an alarm has no beginning.
        """
        known = {name: dict(saved) for name, saved in state["alarms"].items() if name in self.states}
        if any(s["since" if s["alarmed"] else "first"] is None for s in known.values() if s["alarmed"] or s["streak"]):
            raise ValueError("an alarm without a beginning")
        self.states = {**self.states, **known}
        self.progress, self.verdict = state["progress"], Verdict.from_dict(state["verdict"])
        self.updates, self.highest = state.get("updates", self.progress), state.get("highest_rate", 0.0)
        # (before ``raised`` was added, a state held the present verdict only)
        raised = [Raised(Verdict.from_dict(r["verdict"]), r["checks"]) for r in state.get("raised", [])]
        self.raised = raised or ([Raised(self.verdict)] if self.verdict.alarmed else [])
