"""What an alarm of TrainingDoctor is called, the numbers that decided, and what to try. Numbers and texts only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lightning_tricks.detection.causes import Cause, Explained
from lightning_tricks.diagnosis.course import MOST_DECAY
from lightning_tricks.diagnosis.loss_curve import Check, beginning, largest_early
from lightning_tricks.diagnosis.loss_rises import blow_up, bottomless
from lightning_tricks.diagnosis.no_progress import wasting_away


@dataclass(frozen=True)
class CourseAlarm:
    """An alarm of the doctor, and the course of the training until then.

    Args:
        name: of the alarm, such as ``"divergence"``.
        values: of the check that raised it.
        early: first losses of the run, in order.
        checks: the checks so far.
        validation: all losses of validation, in order.
        culprit: what was found to break the numbers; empty where nothing was.
        decay: share of the weights that weight decay takes away at an update.
    """

    name: str
    values: Mapping[str, float]
    early: Sequence[float]
    checks: Sequence[Check]
    validation: Sequence[float]
    culprit: str = ""
    decay: float = math.nan

    @property
    def start(self) -> float:
        """The loss before training; NaN where none is known."""
        return beginning(self.early) if self.early else math.nan

    @property
    def now(self) -> float:
        """The present loss: the median of the last check that has a finite one; NaN where none has."""
        return next((c.median for c in reversed(self.checks) if math.isfinite(c.median)), math.nan)

    @property
    def best(self) -> float:
        """The lowest loss so far; NaN where none is finite."""
        return min((c.median for c in self.checks if math.isfinite(c.median)), default=math.nan)

    @property
    def largest_update(self) -> float:
        """The largest update so far, over the weights; NaN where none is known."""
        return max((c.ratio for c in self.checks if math.isfinite(c.ratio)), default=math.nan)

    @cached_property
    def blow_up(self) -> Check | None:
        """The check at which updates that were too large broke the network."""
        return blow_up(self.early, self.checks)

    @property
    def and_culprit(self) -> tuple[str, ...]:
        """The culprit as a further reason, where there is one."""
        return (self.culprit,) if self.culprit else ()


def explain(alarm: CourseAlarm) -> Explained:
    """Return cause, evidence with the numbers that decided, and advice of an alarm of the doctor.

    >>> explain(CourseAlarm("divergence", {}, [2.0, 2.1], [Check(50, 9.0, 9.0)], []))[1]
    ('the median loss is 9, and the largest of the first ones was 2.1',)
    """
    return _EXPLANATIONS[_kind(alarm)](alarm)


def _kind(alarm: CourseAlarm) -> str:
    """Return the row of the table that explains an alarm: one alarm may have several causes."""
    name = alarm.name
    if name in ("divergence", "spike") and wasting_away(alarm.checks):
        return "shrinkage"  # which is why the loss rises
    if name == "divergence" and bottomless(beginning(alarm.early), alarm.checks):
        return "bottomless"
    if name == "blow-up" and alarm.blow_up is not None:
        return "outlying row" if alarm.values.get("_row") else "blow-up"
    return name if name in _EXPLANATIONS and name != "blow-up" else "generalisation"


def _nonfinite(alarm: CourseAlarm) -> Explained:
    """The loss is NaN or inf."""
    skip = "skip such updates: GradientClip(1.0, nonfinite='skip')"
    advice = (skip, "lower the learning rate", "find the module: PrecisionDoctor()")
    return Cause.NON_FINITE, ("; ".join(("the loss is NaN or inf", *alarm.and_culprit)),), advice


def _bottomless(alarm: CourseAlarm) -> Explained:
    """A loss that has no least value is being minimised."""
    advice = ("bound the loss: a penalty on its size, a clamp, or a normalised score", "lower the learning rate")
    reason = f"the loss falls without bound: it began at {alarm.start:.4g}, and its median is {alarm.now:.4g}"
    return Cause.DIVERGENCE, (reason, *alarm.and_culprit), advice


def _divergence(alarm: CourseAlarm) -> Explained:
    """The loss is above where it began."""
    advice = ("lower the learning rate: LRFinder()", "clip gradients: GradientClip(1.0)", "warm up for longer")
    top = largest_early(alarm.early)
    reason = f"the median loss is {alarm.now:.4g}, and the largest of the first ones was {top:.4g}"
    return Cause.DIVERGENCE, (reason, *alarm.and_culprit), advice


def _height_of_blow_up(alarm: CourseAlarm) -> str:
    broken = alarm.blow_up
    assert broken is not None
    return (
        f"the loss went from {alarm.start:.4g} to {broken.mean:.4g} around step {broken.step}, "
        f"and is {alarm.now:.4g} now"
    )


def _outlying_row(alarm: CourseAlarm) -> Explained:
    """One row of a batch, far above all others, broke the network."""
    advice = ("take that row out, or scale it as the others", "clip gradients: GradientClip(1.0)", "start again")
    return Cause.LOSS_SPIKES, (_height_of_blow_up(alarm), *alarm.and_culprit), advice


def _blow_up(alarm: CourseAlarm) -> Explained:
    """Updates that were too large broke the network."""
    advice = ("lower the learning rate: LRFinder()", "warm up for longer", "clip gradients: GradientClip(1.0)")
    reason = f"{_height_of_blow_up(alarm)}; updates were up to {alarm.largest_update:.1g} of the weights"
    return Cause.RATE_TOO_HIGH, (reason, *alarm.and_culprit), advice


def _shrinkage(alarm: CourseAlarm) -> Explained:
    """The weights shrink and nothing is learned, or weight decay is too large for anything to last."""
    advice = (
        "lower the weight decay: 0.01 to 0.1 is usual with AdamW",
        "leave biases and normalisations out of it: TricksMixin does so",
        "look for a penalty on the weights that outweighs the loss",
    )
    if alarm.decay >= MOST_DECAY:
        each = f"each update takes {alarm.decay:.0%} off the weights"
        reason = f"learning rate times weight decay is {alarm.decay:.2g}: {each}"
        return Cause.SHRINKING_WEIGHTS, (reason,), advice
    weights = next((c.weights for c in reversed(alarm.checks) if math.isfinite(c.weights)), math.nan)
    reason = f"most weights are at {weights:.1%} of their first norm or below, and the loss has not improved: "
    return Cause.SHRINKING_WEIGHTS, (reason + f"{alarm.now:.4g}",), advice


def _idle(alarm: CourseAlarm) -> Explained:
    """The learning rate is gone long before the end."""
    rates = [c.rate for c in alarm.checks if math.isfinite(c.rate)] or [math.nan]
    if len(rates) > 1 and rates[-1] > rates[-2]:
        reason = f"the learning rate still rises at step {alarm.checks[-1].step}, and is {rates[-1]:.2g}"
        return Cause.UNCHANGED_WEIGHTS, (reason,), ("shorten the warm-up: LRSchedule(warmup='5%')",)
    # (the rate never fell: it was too low from the start)
    if rates[-1] >= 0.5 * max(rates):
        ratio = alarm.largest_update
        reason = (
            f"an update changes the weights by at most {ratio:.1g} of their size, at a learning rate of {rates[-1]:.2g}"
        )
        return Cause.UNCHANGED_WEIGHTS, (reason,), ("raise the learning rate: LRFinder() finds one",)
    advice = (
        "see at which interval the scheduler is called: {'interval': 'epoch'} or 'step', and for how many steps",
        "plan it in shares of the run: LRSchedule()",
        "of ReduceLROnPlateau look at mode, patience and min_lr",
    )
    reason = f"the learning rate is {rates[-1]:.2g}, it was {max(rates):.2g}, and most of the run is still to come"
    return Cause.UNCHANGED_WEIGHTS, (reason,), advice


def _no_updates(alarm: CourseAlarm) -> Explained:
    """Batches pass, and no optimizer is stepped."""
    reason = f"no optimizer made a step in {alarm.values.get('batches', 0.0):.0f} batches"
    advice = (
        "call optimizer.step() after manual_backward(loss)",
        "take the optimizers of this run: self.optimizers()",
        "look for a condition that is never true",
    )
    return Cause.UNCHANGED_WEIGHTS, (reason,), advice


def _standstill(alarm: CourseAlarm) -> Explained:
    """Weights that are used, and that nobody updates."""
    advice = (
        "call the copy's update after each optimizer step, as in on_train_batch_end or optimizer_step",
        "look at its momentum: of 1, or 0 the other way round, nothing moves",
        "copy the network that is trained, not another one",
    )
    if "replaced" in alarm.values:
        advice = (
            "make such layers in __init__, setup or configure_model, before configure_optimizers is called",
            "or give the new parameters to the optimizer: optimizer.add_param_group",
            "ask SanityCheck()",
        )
    return Cause.UNCHANGED_WEIGHTS, alarm.and_culprit, advice


def _silence(alarm: CourseAlarm) -> Explained:
    """The optimizer's parameters get no gradients."""
    advice = (
        "give the optimizer the parameters of the model that is trained: self.parameters()",
        "look for detach() and no_grad() between them and the loss",
        "ask SanityCheck()",
    )
    reason = f"no parameter of the optimizer gets a gradient, and the loss is {alarm.now:.4g}"
    return Cause.NO_GRADIENTS, (reason,), advice


def _flow(alarm: CourseAlarm) -> Explained:
    """Gradients vanish on their way to the first layer."""
    first, last = (alarm.values.get(name, 0.0) for name in ("first_gradient", "last_gradient"))
    advice = ("use ReLU or GELU, normalisation, residual connections", "initialise for the activation", "fewer layers")
    ends = f"{first:.1g} in the first layer, {last:.1g} in the last"
    reason = f"gradient norms are {ends}, and the loss has not moved from {alarm.start:.4g}"
    return Cause.VANISHING_GRADIENTS, (reason,), advice


def _spike(alarm: CourseAlarm) -> Explained:
    """The loss jumped, and did not come back."""
    advice = ("lower the learning rate", "clip gradients: GradientClip(1.0)", "look at the data of these steps")
    reason = f"the median loss jumped and stays at {alarm.now:.4g}, after {alarm.best:.4g}"
    return Cause.LOSS_SPIKES, (reason, *alarm.and_culprit), advice


def _unmoved(alarm: CourseAlarm) -> Explained:
    """Updates change the weights, and the loss stays where it was."""
    reason = (
        f"after {alarm.checks[-1].step} updates the loss is where it began: {alarm.start:.4g} before training, at best "
        f"{alarm.best:.4g} since, with updates of up to {alarm.largest_update:.1g} of the weights"
    )
    advice = (
        "ask SanityCheck(): can one batch be learned, and do targets belong to their inputs?",
        "look at what the loss compares: pairs or negatives of other rows, a softmax or sigmoid too many, masks",
        "scale the inputs; look for detach() between inputs and loss",
    )
    return Cause.LABELS_UNRELATED, (reason,), advice


def _evaluation(alarm: CourseAlarm) -> Explained:
    """What was learned does not show in eval mode, not even on training data."""
    fixed = next((c.fixed for c in reversed(alarm.checks) if math.isfinite(c.fixed)), math.nan)
    reason = (
        f"the loss fell from {alarm.start:.4g} to {alarm.now:.4g} in training mode; in eval mode, on the first batch "
    )
    advice = (
        "let BatchNorm follow its statistics: momentum=0.1 in PyTorch means 0.9 or 0.99 elsewhere",
        "larger batches, GroupNorm, or no statistics that two kinds of data share",
        "look at what depends on self.training",
    )
    return Cause.EVALUATION_DIFFERS, (reason + f"of training, it is {fixed:.4g}",), advice


def _overfitting(alarm: CourseAlarm) -> Explained:
    """Validation gets worse while training gets better."""
    validation = alarm.validation
    best, now = min(validation, default=math.nan), validation[-1] if validation else math.nan
    train = alarm.values.get("loss", math.nan)
    advice = (
        "go back to the checkpoint of the best validation loss, and stop earlier",
        "more data or augmentation, weight decay, dropout",
        "a smaller model",
    )
    reason = f"validation loss rose from {best:.4g} to {now:.4g} while training reached {train:.4g}"
    if now <= 1.05 * best:
        reason = f"validation loss was never better than {best:.4g} while training fell to {train:.4g}"
        advice = ("encode and scale validation data as those of training", *advice[1:])
    return Cause.OVERFITTING, (reason,), advice


_EXPLANATIONS: dict[str, Callable[[CourseAlarm], Explained]] = {
    "finite": _nonfinite,
    "evaluation": _evaluation,
    "bottomless": _bottomless,
    "divergence": _divergence,
    "outlying row": _outlying_row,
    "blow-up": _blow_up,
    "silence": _silence,
    "standstill": _standstill,
    "updates": _no_updates,
    "shrinkage": _shrinkage,
    "flow": _flow,
    "spike": _spike,
    "idle": _idle,
    "unmoved": _unmoved,
    "generalisation": _overfitting,
}
