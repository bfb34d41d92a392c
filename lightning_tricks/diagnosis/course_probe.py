"""CourseProbe: what TrainingDoctor looks at, composed of five parts, and what their numbers mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.causes import Cause, Explained, Hint
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.diagnosis import course_causes, figures, findings, gradient_health, loss_curve, reference_batch
from lightning_tricks.diagnosis.course import Course, Plan
from lightning_tricks.diagnosis.course_causes import CourseAlarm
from lightning_tricks.diagnosis.culprit import Culprit
from lightning_tricks.diagnosis.data_wait import DataWait
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.diagnosis.gradient_health import GradientHealth, GradientReading
from lightning_tricks.diagnosis.loss_curve import Check
from lightning_tricks.diagnosis.loss_record import LossRecord
from lightning_tricks.diagnosis.reference_batch import ReferenceBatch, ReferenceReading
from lightning_tricks.diagnosis.slices import Layout, layout_of, numbers_of, shared_vector, with_those_apart
from lightning_tricks.diagnosis.weights import trained_before
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.error_parts import ErrorParts
from lightning_tricks.numerics.shards import reduced
from lightning_tricks.optimizer_step.logbook import Page

# the most serious first
_SERIOUS = (
    *("finite", "divergence", "blow-up", "silence", "updates", "shrinkage", "flow", "spike", "idle", "evaluation"),
    *("standstill", "unmoved", "generalisation"),
)
_DECAY_IN_GRADIENT = ("Adam", "Adamax", "NAdam", "RAdam", "Adagrad", "RMSprop", "Adadelta", "Rprop")
_DOUBT = 8  # bad checks in a row at which the first batch is run again, so that alarms see it as it is
_ROW_ADVICE = "look at that row; scale the inputs, or clip gradients: GradientClip(1.0)"


class CourseParts(NamedTuple):
    """What the course of a training is measured with; each is a part of the callback, and measures on its own."""

    losses: LossRecord
    gradients: GradientHealth
    culprit: Culprit
    wait: DataWait
    reference: ReferenceBatch

    @classmethod
    def made(cls, *, reference_asked_for: bool = False) -> CourseParts:
        """Return new ones."""
        return cls(LossRecord(), GradientHealth(), Culprit(), DataWait(), ReferenceBatch(reference_asked_for))


class CourseReading(NamedTuple):
    """What they measured at one check, on the host.

    Args:
        losses: of the steps since the check before.
        gradients: norms, ratios and the rate.
        row: whether one row of a batch made a giant loss, on any process.
        extent: numbers that a sample of the batch of the check has, as a mean over processes.
        waited: seconds since the check before in which data was waited for.
        seconds: since the check before.
        reference: what the first batch gave.
    """

    losses: list[float]
    gradients: GradientReading
    row: bool
    extent: float
    waited: float
    seconds: float
    reference: ReferenceReading


def reading_of(layout: Layout, vector: list[float]) -> CourseReading:
    """Return what was measured at a check.

    >>> measured = (((2,), (1, 0, 0, 0), (1, 1), (), (1,)), ((), (), (), (), (0,)), ((), (0.1,), (), (3.0, 4.0), ()))
    >>> reading = reading_of(Layout(*measured), [2.0, 1.0, 0.5, 0.0, 64.0, 1.5])
    >>> reading.losses, reading.gradients.norms, reading.row, reading.extent, reading.waited, reading.reference.loss
    ([2.0, 1.0], [0.5], False, 64.0, 3.0, 1.5)
    """
    losses, gradients, culprit, wait, reference = numbers_of(layout, vector)
    waited, seconds = wait.known
    return CourseReading(
        losses.shared[0],
        gradient_health.reading_of(gradients),
        any(culprit.shared[0]),
        culprit.shared[1][0],
        waited,
        seconds,
        reference_batch.reading_of(reference),
    )


def _in_doubt(judge: Judge | None) -> bool:
    """Whether an alarm is about to begin, as the last check has it: the same on all processes."""
    return judge is not None and any(0 < state["streak"] <= _DOUBT for state in judge.states.values())


def base_rate(run: TrainingRun | None) -> float:
    """Return the rate that schedulers multiply, of the first parameter group; NaN without any."""
    group = run.views[0].optimizer.param_groups[0] if run is not None and run.views else {}
    rate = group.get("initial_lr", math.nan)
    return rate if isinstance(rate, float) else math.nan  # (a tensor on a device is not waited for)


def decay_of(run: TrainingRun | None) -> float:
    """Return the share of the weights that weight decay takes away at each update; NaN without any optimizer.

    Of the group with the most parameters, and of decay that is apart from the gradient: where an optimizer divides it
    by the size of the gradients, as ``Adam`` does, the rate alone tells how far an update goes.
    """
    optimizer = run.views[0].optimizer if run is not None and run.views else None
    groups = [] if optimizer is None else optimizer.param_groups
    if not groups:
        return math.nan
    group = max(groups, key=lambda g: sum(p.numel() for p in g["params"]))
    apart = group.get("decoupled_weight_decay", type(optimizer).__name__ not in _DECAY_IN_GRADIENT)
    rate, decay = group.get("lr"), group.get("weight_decay")
    # (a rate that is a tensor on a device is not waited for)
    return rate * decay if apart and isinstance(rate, float) and isinstance(decay, (int, float)) else 0.0


class CourseProbe(Probe):
    """Follows a training by five parts, keeps its course, and lets alarms and advice follow from that.

    Args:
        parts: what measures.
        patience: of the alarms.
    """

    hooks_modules = False

    def __init__(self, parts: CourseParts, patience: int) -> None:
        super().__init__()
        self.parts = parts
        self.course = Course(patience)
        self.still = ""  # which weights nobody updates
        self.manual = False  # with several losses, whose curve says nothing
        self._layouts: list[Layout] = []  # of the vectors that are on their way
        self._checks = 0
        self._every = 1  # updates between two checks
        self._run: TrainingRun | None = None
        self._judge: Judge | None = None

    # -- what is judged -------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Alarm]:
        """Each follows a margin that is positive in a sound training."""
        at_once, patient = Alarm(below=0.5, patience=1), Alarm(below=0.5, patience=self.course.patience)
        return {
            "finite": at_once,
            "divergence": Alarm(below=0.0, patience=2, recovery=1.0),
            "spike": patient,
            "silence": patient,
            "flow": patient,
            "shrinkage": patient,
            "idle": patient,
            "evaluation": patient,
            "updates": at_once,
            "standstill": at_once,
            "blow-up": at_once,
            "unmoved": patient,
            "generalisation": patient,
        }

    def grace_factor(self, alarm: str) -> float:
        """NaN needs no grace, nor does a rate that is gone, with which it never ends; a plateau needs time to end."""
        return {"finite": 0.0, "idle": 0.0, "updates": 0.0, "standstill": 0.0, "flow": 2.0}.get(alarm, 1.0)

    # -- on the device --------------------------------------------------------------------------------------------

    def on_start(self, run: TrainingRun, judge: Judge, every: int) -> None:
        """Know the run."""
        self._run, self._judge, self._every = run, judge, every
        self.manual = not run.trainer.lightning_module.automatic_optimization

    def before_check(self, run: TrainingRun, page: Page) -> None:
        """Gradients and weights are those before the update."""
        self.parts.gradients.before_check(page)

    def ready(self, run: TrainingRun, samples: int, waited: int) -> bool:
        """Whether there was a loss and an update."""
        return bool(self.parts.losses.losses) and self.parts.gradients.norms is not None

    def measure(self, run: TrainingRun) -> Tensor:
        """Losses, norms, ratios, and what the model says to the first batch."""
        parts, norms = self.parts, self.parts.gradients.norms
        assert norms is not None
        measured = [
            parts.losses.measure(norms.device),
            parts.gradients.measure(norms, run.views[0].optimizer.param_groups[0].get("lr")),
            parts.culprit.measure(norms.device),
            parts.wait.measure(),
            parts.reference.measure(
                run, norms.device, run.clock.attempted(0) // self._every, asked=_in_doubt(self._judge)
            ),
        ]
        self._layouts.append(layout_of(measured))
        # each process has losses of its own, and other samples to show, perhaps fewer
        return with_those_apart(reduced(run.trainer.strategy, shared_vector(measured), "mean"), measured)

    # -- on the host ----------------------------------------------------------------------------------------------

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """Curves, and advice, which is not an alarm."""
        # (vectors arrive in the order in which they were sent)
        return self.follow(reading_of(self._layouts.pop(0), vector), judge)

    def follow(self, reading: CourseReading, judge: Judge) -> dict[str, float]:
        """Take up what was measured at a check; return the values by name."""
        parts, course, found = self.parts, self.course, reading.gradients
        self._checks += 1
        step = self._checks * self._every
        before = dict(course.noted)
        check = Check(
            step, math.nan, math.nan, found.rate, found.ratio, fixed=reading.reference.loss, extent=reading.extent
        )
        course.add(check, reading.losses, found.norms, found.sizes)
        if course.trained is None and course.nothing_left and self._run is not None:
            course.trained = _was_trained(self._run)
        share = parts.wait.share(reading.waited, reading.seconds)
        row = reading.row or Hint.OUTLYING_ROW in course.noted
        values = {**values_of(course.checks[-1], reading, share), "_row": float(row)}
        course.follow_spikes(reading.losses, curves=not self.manual)
        if reading.row:
            self._note_row(step)
        values |= parts.reference.follow(reading.reference, step)
        parts.culprit.follow(course.usual)
        if not self.manual:
            self._advise(judge, step)
        self.tell_changes(before)
        return values

    def _note_row(self, step: int) -> None:
        evidence = self.parts.culprit.text or "a batch of another process had a row with values far above the others"
        found = Finding(Hint.OUTLYING_ROW, evidence, 0.85, _ROW_ADVICE, step)
        self.course.noted.setdefault(Hint.OUTLYING_ROW, found)

    def _advise(self, judge: Judge, step: int) -> None:
        waits = findings.waiting(*self.parts.wait.in_all, step)
        now = self.course.hints_now(total_of(judge)) if judge.progress >= judge.grace else []
        self.course.advise([waits, *now])

    def tell_changes(self, before: Mapping[Cause | Hint, Finding]) -> None:
        """Tell the loggers what was noted since then, and what no longer holds.

        Args:
            before: what had been noted.
        """
        run, now = self._run, self.course.noted
        if run is None or not run.active:
            return
        for kind in [k for k in before if k not in now]:
            run.publisher.put(run.step, {log_key(kind): 0.0})
        for kind, finding in now.items():
            if kind not in before:
                run.publisher.put(run.step, {log_key(kind): 1.0})
                run.publisher.log_text(run.step, log_key(kind), str(finding))

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """The margins of what the course of the training says."""
        plan = Plan(total_of(judge), base_rate(self._run), decay_of(self._run))
        return self.course.statistics(values, curves=not self.manual, plan=plan)

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Name the most serious alarm, and note it as a finding."""
        course, before = self.course, dict(self.course.noted)
        name = next(n for n in _SERIOUS if n in active)
        culprit = self.still if name == "standstill" else self.parts.culprit.text
        alarm = CourseAlarm(name, values, course.early, course.checks, course.validation, culprit, decay_of(self._run))
        explained = course_causes.explain(alarm)
        cause, reasons, advice = explained
        step = course.checks[-1].step if course.checks else 0
        course.noted.setdefault(cause, Finding(cause, "; ".join(reasons), 0.9, advice[0], step))
        self.tell_changes(before)
        return explained

    @property
    def error_parts(self) -> ErrorParts | None:
        """Training error, gap to validation, and a bound on label noise; None where losses do not tell."""
        return None if self.manual else self.course.parts

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """The whole training."""
        return partial(self.draw, history)

    def draw(self, history: list[tuple[int, dict[str, float]]]) -> Any:
        """Return the figure: loss, predictions on the first batch over time, gradients and updates."""
        course, events = self.course, [] if self._run is None else self._run.publisher.events
        predictions = self.parts.reference.predictions
        return figures.draw_training(history, predictions, course.validation, course.findings(), events)

    # -- state ----------------------------------------------------------------------------------------------------

    def rolled_back(self) -> None:
        """Restart the curves, except for the loss before training."""
        self.course.restart()
        self._layouts = []

    def state(self) -> dict[str, Any]:
        """Findings and curves."""
        return self.course.state_dict()

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self.course.load(state)
        # not by the number of points: those of a long run were thinned out
        checks = self.course.checks
        self._checks = max(0, round(checks[-1].step / self._every)) if checks else 0


def _was_trained(run: TrainingRun) -> bool:
    """Whether the network was trained before, decided alike on all processes; asked where loss and gradients are 0.

    Then the weights are still those of the beginning, so that it can be asked once it matters.
    """
    return not reference_batch.anywhere(run, [not trained_before(run.trainer.lightning_module)])[0]


def total_of(judge: Judge) -> int:
    """Return the updates of the whole run: the grace is a tenth of it."""
    return round(max(1.0, 10 * judge.grace))


def values_of(check: Check, reading: CourseReading, waiting: float) -> dict[str, float]:
    """Return what is logged at a check, and beginning with ``_`` what alarms follow besides.

    Args:
        check: with the losses since the one before worked out.
        reading: what was measured.
        waiting: share of the time since the check before in which data was waited for.
    """
    norms = reading.gradients.norms
    first, last = reading.gradients.first_and_last
    return {
        "loss": check.mean,
        "loss_std": check.spread,
        "first_gradient": first,
        "last_gradient": last,
        "update_ratio": check.ratio,
        "waiting": waiting,
        "_finite": float(not loss_curve.ends_nonfinite(reading.losses)),
        "_vanishing": float(loss_curve.vanishing([n for n in norms if n > 0 or math.isnan(n)])),
        "_silent": float(bool(norms) and not any(norms)),
    }


def log_key(kind: Cause | Hint) -> str:
    """Return under which key a finding is logged.

    >>> log_key(Hint.WAITING)
    'diagnosis/waiting_for_data'
    """
    return f"diagnosis/{kind.replace(' ', '_')}"
