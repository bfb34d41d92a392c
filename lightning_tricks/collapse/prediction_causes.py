"""Why predictions have no skill, the numbers that decided, and what to try. Numbers and texts only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning_tricks.collapse.causes import nonfinite
from lightning_tricks.collapse.references import REFERENCES
from lightning_tricks.detection.causes import Cause, Explained

_DEPENDENT = 1e-4  # an output that depends on its input
_FAR_OFF = -2.0  # R squared: the error is three times the variance of the targets
_ALL = 0.999  # of predictions
_AGAINST = -3.0  # standard errors: predictions go against their targets
_RISEN = 1.2  # a loss against that of the first batch

_SLOWER = ("lower the learning rate: LRFinder()", "clip gradients: GradientClip(1.0)", "warm up for longer")
_LESS_NOISE = (
    "use a larger effective batch: GradientAccumulation(8)",
    "lower the learning rate",
    "clip gradients: GradientClip(1.0)",
)
_SIGN = "look at the loss: a sign that is reversed, a label that is left out, the mean that is maximised"
_SHUFFLED = "see that the data are shuffled: SanityCheck()"
_INPUTS = (
    "check that the inputs reach the model and vary, and that no layer multiplies them by 0",
    "look for dead or saturated units: DeadUnits()",
    "lower the learning rate",
)
_USE = (
    "see that all parameters learn, and that the layers in use are those of the optimizer: SanityCheck()",
    "find a learning rate: LRFinder()",
    "look at what happens to a sample between the batch and the first layer: scale, order of axes, mask",
)
_REVIVE = ("look for dead or saturated units: DeadUnits()", "lower the learning rate or the weight decay", "warm up")
_LABELS = (
    "check that labels belong to their inputs: shuffled together, sorted alike",
    "try to overfit one batch: SanityCheck()",
    "find a learning rate: LRFinder()",
)
_RARE = ("weigh the classes, or use a Dice or focal loss", "draw patches with rare classes", _LESS_NOISE[0])


@dataclass(frozen=True)
class PredictionAlarm:
    """Alarms of a check of predictions, and what the run was like before.

    Args:
        active: alarms that are on: ``"constant"``, ``"worse"``, ``"association"``, ``"background"``, ``"behind"``,
            ``"lost"``, ``"skill"``.
        values: of the check.
        peak: the best skill of the run.
        start: the values of the first batch, before the first update, and as ``"highest"`` the largest loss of a check;
            empty where they are not known.
    """

    active: Sequence[str]
    values: Mapping[str, float]
    peak: float
    start: Mapping[str, float]

    def on(self, *names: str) -> bool:
        """Whether one of these alarms is on."""
        return any(name in self.active for name in names)

    @property
    def kind(self) -> str:
        """The loss that is measured: ``"squared_error"`` in a regression, else ``"cross_entropy"``."""
        return "squared_error" if "squared_error" in self.values else "cross_entropy"

    @property
    def loss(self) -> float:
        """The loss of this check."""
        return self.values.get(self.kind, 0.0)

    @property
    def skill(self) -> float:
        """The skill of this check; NaN where it is not known."""
        return self.values.get("skill", math.nan)

    @property
    def largest(self) -> float:
        """The largest loss of the run."""
        return max(self.loss, self.start.get("highest", 0.0))

    @property
    def rose(self) -> bool:
        """Whether the loss is or was clearly above that of the first batch; False where that is not known."""
        above = self.largest > _RISEN * self.start.get(self.kind, math.nan)
        if self.kind == "squared_error":  # a few rows far out raise it as well
            return above and self.values.get("r_squared", 0.0) < _FAR_OFF
        return above

    @property
    def risen(self) -> str:
        """How far the loss rose, as a reason."""
        before = self.start.get(self.kind, math.nan)
        return f"the {self.kind.replace('_', ' ')} rose from {before:.3g} in the first batch to {self.largest:.3g}"

    @property
    def shares(self) -> tuple[str, ...]:
        """How many predictions are of the commonest class, as a reason where there are classes."""
        if "top_class" not in self.values:
            return ()
        return (f"{self.values.get('top_share', 0.0):.0%} of predictions are class {self.values['top_class']:.0f}",)


def of_prediction(
    active: Sequence[str], values: Mapping[str, float], peak: float, start: Mapping[str, float] | None = None
) -> Explained:
    """Explain predictions without skill: never learned, or lost."""
    alarm = PredictionAlarm(active, values, peak, start or {})
    return next(explain(alarm) for holds, explain in _RULES if holds(alarm))


def _nonfinite(alarm: PredictionAlarm) -> Explained:
    return nonfinite(f"the {alarm.kind.replace('_', ' ')} is {alarm.loss}")


def _is_reversed(alarm: PredictionAlarm) -> bool:
    """Whether a classifier is wrong more often than chance: its labels or its loss have the wrong sign."""
    against = alarm.kind == "cross_entropy" and alarm.values.get("association", 0.0) < _AGAINST
    return against and alarm.on("worse", "association")


def _reversed(alarm: PredictionAlarm) -> Explained:
    reason = f"predictions go against their targets: z = {alarm.values['association']:.1f}"
    return Cause.LABELS_UNRELATED, (reason,), (_SIGN, *_LABELS[:2])


def _lost(alarm: PredictionAlarm) -> Explained:
    fell = f"skill fell from {alarm.peak:.2f} to {alarm.skill:.2f}"
    if alarm.kind == "cross_entropy" and alarm.loss > 3 * max(alarm.values.get("label_entropy", 1.0), 1e-9):
        entropy = alarm.values["label_entropy"]
        far = f"the cross entropy is {alarm.loss:.3g}, that of the label frequencies {entropy:.3g}"
        return Cause.DIVERGENCE, (fell, far), _SLOWER
    if alarm.kind == "squared_error" and alarm.rose:
        return Cause.DIVERGENCE, (fell, alarm.risen), _SLOWER
    return Cause.PREDICTION_COLLAPSE, (fell, *alarm.shares), _LESS_NOISE


def _constant(alarm: PredictionAlarm) -> Explained:
    dependence = alarm.values.get("_spread", alarm.values.get("input_dependence", math.nan))
    same = f"the output is the same whatever the input (variance {dependence:.1g} of that of the targets)"
    first = alarm.start.get("_spread", 0.0)
    if not first > _DEPENDENT:
        return Cause.INPUTS_IGNORED, (same, *alarm.shares), _INPUTS
    was = f"in the first batch it was not ({first:.2g})"
    if alarm.rose:
        return Cause.RATE_TOO_HIGH, (same, was, alarm.risen), _SLOWER
    return Cause.PREDICTION_COLLAPSE, (same, was, *alarm.shares), _REVIVE


def _worse(alarm: PredictionAlarm) -> Explained:
    worse = f"skill {alarm.skill:.3g}: worse than always answering with the label frequencies "
    worse += f"(cross entropy {alarm.loss:.3g})"
    if alarm.rose:
        return Cause.RATE_TOO_HIGH, (worse, alarm.risen), _SLOWER
    return Cause.PREDICTION_COLLAPSE, (worse, *alarm.shares), (*_LESS_NOISE[:2], _SHUFFLED)


def _one_answer(alarm: PredictionAlarm) -> Explained:
    one = f"skill {alarm.skill:.3f}, and one answer for all"
    return Cause.PREDICTION_COLLAPSE, (one, *alarm.shares), _LESS_NOISE


def _background(alarm: PredictionAlarm) -> Explained:
    found = f"balanced skill {alarm.values['balanced_skill']:.3f}: no pixel of another class is found"
    return Cause.PREDICTION_COLLAPSE, (found, *alarm.shares), _RARE


def _behind(alarm: PredictionAlarm) -> Explained:
    network, reference = (alarm.values[f"_by_{name}"] for name in ("network", "reference"))
    answer = "a vote" if alarm.kind == "cross_entropy" else "the mean"
    of = tuple(REFERENCES.values())[int(alarm.values["_reference"])].told
    told = f"skill {network:.2f}; {answer} of {of}, has {reference:.2f}"
    return Cause.INPUTS_IGNORED, (told, *alarm.shares), _USE


def _unrelated(alarm: PredictionAlarm) -> Explained:
    if alarm.on("skill"):
        none = f"skill {alarm.skill:.3f} on samples that were seen before: no better than the best constant answer"
    else:
        score = alarm.values.get("association", 0.0)
        none = f"predictions go with their targets no more than by chance: z = {score:.1f}"
    if alarm.rose:
        return Cause.RATE_TOO_HIGH, (none, alarm.risen), _SLOWER
    return Cause.LABELS_UNRELATED, (none,), _LABELS


# the first rule that holds explains an alarm: what leaves the least to be explained stands first
_RULES: tuple[tuple[Callable[[PredictionAlarm], bool], Callable[[PredictionAlarm], Explained]], ...] = (
    # the loss is NaN or inf: nothing else can be measured then
    (lambda a: not math.isfinite(a.loss), _nonfinite),
    (_is_reversed, _reversed),
    # there was skill earlier in the run
    (lambda a: a.on("lost"), _lost),
    # the output does not depend on the input
    (lambda a: a.on("constant"), _constant),
    # the best constant answer would be better
    (lambda a: a.on("worse"), _worse),
    # one class is predicted for all; in a segmentation that is what the background does at first
    (lambda a: a.values.get("top_share", 0.0) > _ALL and not a.on("background"), _one_answer),
    # a segmentation finds the commonest class only
    (lambda a: a.on("background"), _background),
    # a trivial learner answers far better, and there is some skill
    (lambda a: a.on("behind") and not a.on("association", "skill"), _behind),
    # the last rule, which holds when no other does: predictions vary, and not with their targets
    (lambda a: True, _unrelated),
)
