"""The experiments of SanityCheck on outputs and labels: is a label compared with one place, and is it within reach?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import Examination, Look
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.labels import counts
from lightning_tricks.numerics.trees import tree_map

_ASKED = 3  # places whose label is changed
_FELT = 1e-3  # of the largest change of a gradient
_UPDATES = 40  # on one batch, until outputs are where the loss wants them
_FEWEST = 8  # labels from which a share says something
# what an activation can give at least and at most, by the name of its backward function
_NEAR = 0.02  # of a range
# Of the labels' variance. What is measured where nothing is has noise about 0, so that up to half of it is below 0; it
# is no more than this unless there is little but noise. Standardised labels behind a ReLU: a half.
_MOST_NOISE = 1 / 3
_RANGES = {
    **dict.fromkeys(("SigmoidBackward", "HardsigmoidBackward"), (0.0, 1.0)),
    "TanhBackward": (-1.0, 1.0),
    "ReluBackward": (0.0, float("inf")),
}
_CHOSEN = "HardtanhBackward"  # (ReLU6 too: its range is an argument)


# -- one label, one place ---------------------------------------------------------------------------------------------


def places(exam: Examination) -> list[Check]:
    """Change the label of one place: the gradients that change must be those of the classes of one place.

    ``view`` where ``permute`` is needed hands the scores of a class at several places to the loss as those of several
    classes at one place; shapes and the first loss are as they should be.
    """
    prediction, target = exam.first.prediction, exam.first.target
    asked = prediction is not None and target is not None and target.ndim > 1 and not target.is_floating_point()
    if exam.dry_run.steps.anywhere(not asked) or prediction is None or target is None or exam.target_at is None:
        return []
    classes = prediction.numel() // target.numel()
    chosen = _changes(target)
    if exam.dry_run.steps.anywhere(len(chosen) < _ASKED or classes < 2):
        return []
    usual, spread, axis = slope_of(exam, exam.batch), 0, class_axis(prediction, target)
    for place, label in chosen:
        other = slope_of(exam, _relabelled(exam, target, place, label))
        if usual is None or other is None or usual.shape != other.shape:
            return []
        spread += _in_several_places(usual - other, classes, axis)
    check = sanity.label_in_several_places(spread, len(chosen))
    return [] if check is None else [check]


def _changes(target: Tensor) -> list[tuple[int, int]]:
    """Return some places of flattened labels, each with another label that occurs; none where all are the same."""
    labels = target.reshape(-1)
    valid = counts(labels).nonzero().flatten()
    known = torch.unique(labels[valid])
    if len(known) < 2 or len(valid) < 2 * _ASKED:
        return []
    found = []
    for i in range(1, _ASKED + 1):
        place = int(valid[i * len(valid) // (_ASKED + 1)])
        found.append((place, int(known[known != labels[place]][-1])))
    return found


def _relabelled(exam: Examination, target: Tensor, place: int, label: int) -> Any:
    memory = target.data_ptr()

    def changed(t: Tensor) -> Tensor:
        if t.data_ptr() != memory or t.shape != target.shape:
            return t
        t = t.clone()
        t.view(-1)[place] = label
        return t

    return tree_map(changed, exam.batch)


def _in_several_places(change: Tensor, classes: int, axis: int | None = None) -> bool:
    """Whether the gradients that one label changes are of several places, and of no more elements than classes.

    Args:
        change: of the gradient by the output.
        classes: how many there are.
        axis: theirs in the output; None where it is not known.

    >>> one, two = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    >>> one[0, 1, 2] = one[0, 1, 3] = two[0, 0, 2] = two[0, 1, 1] = 1.0
    >>> _in_several_places(one, 4), _in_several_places(two, 4)
    (False, True)
    >>> _in_several_places(one, 4, axis=2), _in_several_places(one, 4, axis=1)
    (False, True)
    """
    size = change.abs()
    felt = (size > _FELT * size.max()).nonzero()
    apart = (felt != felt[:1]).any(0)
    several = int(apart.sum()) > 1 if axis is None else bool(apart.sum() > apart[axis].long())
    return 2 <= len(felt) <= classes and several


def class_axis(prediction: Tensor, target: Tensor) -> int | None:
    """Return the axis of the classes in an output; None where the shapes of output and labels do not tell.

    >>> class_axis(torch.zeros(8, 3, 5), torch.zeros(8, 5).long()), class_axis(torch.zeros(8, 3), torch.zeros(8).long())
    (1, 1)
    """
    if target.is_floating_point() or prediction.ndim != target.ndim + 1:
        return None
    found = {a for a in (1, prediction.ndim - 1) if prediction.shape[:a] + prediction.shape[a + 1 :] == target.shape}
    return found.pop() if len(found) == 1 else None


def slope_of(exam: Examination, batch: Any) -> Tensor | None:
    """Return the gradient of the loss by the prediction, from the state with which the dry run began."""
    exam.dry_run.restart()
    look = exam.look(batch, gradient=True)
    return _by(look, look.output(exam.first.key, tracked=True))


def _by(look: Look, output: Tensor | None) -> Tensor | None:
    if output is None or not output.requires_grad or look.loss is None or not look.loss.requires_grad:
        return None
    (slope,) = torch.autograd.grad(look.loss.sum(), [output], allow_unused=True, retain_graph=True)
    return slope


# -- labels within reach ----------------------------------------------------------------------------------------------


def reach(exam: Examination) -> list[Check]:
    """Train on one batch, where outputs are bounded: at an end of their range the loss must not ask for more.

    As of pixels against a sigmoid, or of negative numbers against a ReLU. Labels at the end of their own range are not
    looked at: black pixels are reached as nearly as one likes. Where the loss is known to compare these very outputs
    and labels, labels beyond the range say it before any update.
    """
    exam.dry_run.restart()
    look = exam.look(exam.batch, gradient=True)
    found = _bounded(exam, look)
    if exam.dry_run.steps.anywhere(found is None) or found is None:
        return []
    key, activation, bounds = found
    output = look.output(key, tracked=True)
    device = None if output is None else output.device
    outside = exam.dry_run.steps.mean(torch.tensor(_labels_beyond(exam, output, bounds), device=device))
    if outside > sanity.OUT_OF_REACH:
        return [sanity.labels_out_of_reach(outside, activation)]
    exam.dry_run.restart()
    exam.dry_run.data.hold([exam.batch])
    for _ in range(_UPDATES):
        exam.dry_run.update()
    look = exam.look(exam.batch, gradient=True)
    output = look.output(key, tracked=True)
    slope, target = _by(look, output), _compared(exam, output)
    if output is None or slope is None or target is None:
        return []
    share = _beyond(output.detach(), slope, target, bounds)
    share = exam.dry_run.steps.mean(torch.tensor(share, device=output.device))
    return [sanity.within_reach(share, activation)]


def _labels_beyond(exam: Examination, output: Tensor | None, bounds: tuple[float, float]) -> float:
    """Return the share of labels that no output can be equal to; 0 where the loss may compare something else."""
    found = exam.first.found
    if found is None or output is None or found.prediction.shape != output.shape:
        return 0.0
    if not torch.equal(found.prediction, output.detach()):
        return 0.0
    return beyond(found.target.float(), bounds)


def beyond(target: Tensor, bounds: tuple[float, float]) -> float:
    """Return the share of labels beyond a range; 0 where that may be noise about an end of it.

    Of noise at most half is beyond, within two standard errors, and most of what there is to explain is within.

    Args:
        target: the labels.
        bounds: of the range.

    >>> numbers = torch.linspace(-1, 1, 101)
    >>> round(beyond(numbers, (0.0, float("inf"))), 2), beyond(torch.cat([0.1 * numbers, 4 + numbers]), (0.0, 9.0))
    (0.5, 0.0)
    """
    low, high = bounds
    room = _NEAR * (high - low) if high < float("inf") else _NEAR * float(target.std())
    share = float(((target > high + room) | (target < low - room)).float().mean())
    missed, whole = (target - target.clamp(low, high)).square().sum(), (target - target.mean()).square().sum()
    noise = share <= 0.5 + target.numel() ** -0.5 and bool(missed <= _MOST_NOISE * whole)
    return 0.0 if noise else share


def _bounded(exam: Examination, look: Look) -> tuple[tuple[str, int], str, tuple[float, float]] | None:
    """Return where the output of a bounded activation comes from that is compared with numbers, its kind and range."""
    for key, output in zip(look.keys, look.tracked, strict=True):
        kind = "" if output.grad_fn is None else output.grad_fn.name().rstrip("0123456789")
        bounds = _range_of_its_own(output.grad_fn) if kind == _CHOSEN else _RANGES.get(kind)
        if bounds is not None and _compared(exam, output) is not None and _by(look, output) is not None:
            return key, kind.removesuffix("Backward").lower(), bounds
    return None


def _range_of_its_own(made_by: Any) -> tuple[float, float] | None:
    """Return what an activation can give at least and at most whose range is an argument; None for no range.

    >>> _range_of_its_own(torch.nn.ReLU6()(torch.zeros(2, requires_grad=True)).grad_fn)
    (0.0, 6.0)
    """
    low, high = (getattr(made_by, f"_saved_{name}_val", None) for name in ("min", "max"))
    return (float(low), float(high)) if low is not None and high is not None and low < high else None


def _compared(exam: Examination, output: Tensor | None) -> Tensor | None:
    """Return the numbers of the batch that an output may be compared with; None where there are only 0 and 1."""
    targets, known = exam.possible_targets(exam.batch)
    if output is None or not known:
        return None
    for t in targets:
        alike = t.is_floating_point() and t.ndim > 0 and t.numel() == output.numel() and len(t) == len(output)
        if alike and int(_inside(t).sum()) >= _FEWEST:
            return t
    return None


def _inside(target: Tensor) -> Tensor:
    """Return which labels are not at an end of their own range."""
    return (target > target.min()) & (target < target.max())


def _beyond(output: Tensor, slope: Tensor, target: Tensor, bounds: tuple[float, float]) -> float:
    """Return the share of outputs that are at an end of what is possible, and that the loss wants further out.

    >>> output, target = torch.tensor([1.0, 1.0, 0.5, 1.0]), torch.tensor([7.0, 8.0, 0.0, 9.0])
    >>> _beyond(output, torch.tensor([-1.0, -1.0, 0.1, -1.0]), target, (0.0, 1.0))
    1.0
    """
    low, high = bounds
    near = _NEAR * (high - low) if high < float("inf") else 0.0
    value, pull = output.reshape(target.shape), slope.reshape(target.shape)
    strong = 0.1 * float(pull.abs().max())
    outside = ((value >= high - near) & (pull < -strong)) | ((value <= low + near) & (pull > strong))
    return float(outside[_inside(target)].float().mean())
