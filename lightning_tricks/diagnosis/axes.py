"""The experiments of SanityCheck on axes: does a reshape exchange two, and is the softmax over that of the classes?"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.output_labels import class_axis, slope_of
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.trace import floating

_VALUES = 4096  # of a tensor that are compared
_VARIED = 16  # of these that must differ from the most frequent one: sparse data are alike in any order
_ZERO = 1e-4  # of the sum of sizes


def axes(exam: Examination) -> list[Check]:
    """Look for axes that are mistaken for each other, before a module or by the loss."""
    return exchanged(exam) or normalised(exam)


# -- view for permute -------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """What is kept of a tensor: its shape, and some of its values in the order of its elements."""

    shape: tuple[int, ...]
    values: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _Seen:
        flat = tensor.detach().reshape(-1)
        return cls(tuple(tensor.shape), flat[:: max(1, len(flat) // _VALUES)].clone())


def exchanged(exam: Examination) -> list[Check]:
    """Look for a module that gets the elements of another tensor in the same order, and with two axes exchanged.

    ``permute`` changes the order of the elements, ``view`` and ``reshape`` do not: after these, each row holds elements
    of several ones.
    """
    exam.dry_run.restart()
    earlier = [_Seen.of(t) for t in tensors_of(exam.batch) if t.ndim > 1]
    found: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def given(name: str, arguments: Any) -> None:
        for tensor in [t for t in tensors_of(arguments) if t.ndim > 1 and name]:
            alike = [e for e in earlier if _is_exchanged(e.shape, tuple(tensor.shape))]
            now = _Seen.of(tensor) if alike else None
            found.extend((name, now.shape, e.shape) for e in alike if now is not None and _same_order(e, now))

    def returned(output: Any) -> None:
        earlier.extend(_Seen.of(t) for t in floating(output)[:1] if t.ndim > 1)

    handles: list[Any] = []
    for name, module in exam.modules.items():
        # (``Unflatten`` is asked for a shape, and a container hands on what its first part gets)
        if not isinstance(module, (nn.Flatten, nn.Unflatten, nn.Identity)):
            handles.append(module.register_forward_pre_hook(Hook(lambda _, args, n=name: given(n, args))))
        handles.append(module.register_forward_hook(Hook(lambda _, args, out: returned(out))))
    try:
        exam.look(exam.batch)
    finally:
        for handle in handles:
            handle.remove()
    if not exam.dry_run.steps.anywhere(bool(found)):
        return []
    name, shape, before = found[0] if found else ("a module, on another process,", (), ())
    return [axes_exchanged(name, shape, before)]


def _is_exchanged(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether one shape has the axes of another in another order; axes of size 1 may be anywhere.

    >>> _is_exchanged((8, 30, 6), (8, 6, 30)), _is_exchanged((8, 1, 6), (8, 6, 1)), _is_exchanged((8, 30, 6), (240, 6))
    (True, False, False)
    """
    one, two = ([n for n in shape if n > 1] for shape in (before, after))
    return one != two and sorted(one) == sorted(two)


def _same_order(before: _Seen, after: _Seen) -> bool:
    """Whether elements are in the same order: they are the same, or an activation between made them larger together."""
    if before.values.shape != after.values.shape:
        return False
    one, two = before.values.double(), after.values.double()
    if int((two != two.median()).sum()) < _VARIED or not bool(one.isfinite().all() and two.isfinite().all()):
        return False
    return bool((two[one.argsort(stable=True)].diff() >= -1e-6 * two.abs().max()).all())


# -- softmax over another axis ----------------------------------------------------------------------------------------


def normalised(exam: Examination) -> list[Check]:
    """Look over which axis the gradient of the loss by the outputs sums to 0: that of the softmax.

    For cross entropy, with weights, smoothed labels or a focus, it is the axis of the classes. Outputs ``[n, K]`` are
    not asked: a loss of distances between embeddings sums to 0 over the samples, since no distance changes where all
    move together; and a softmax over the batch is told by the value of the loss.
    """
    prediction, target = exam.first.prediction, exam.first.target
    dense = prediction is not None and prediction.ndim > 2
    axis = class_axis(prediction, target) if dense and prediction is not None and target is not None else None
    if exam.dry_run.steps.anywhere(axis is None) or prediction is None or axis is None:
        return []
    slope = slope_of(exam, exam.batch)
    if exam.dry_run.steps.anywhere(slope is None) or slope is None:
        return []
    over = [a for a in range(slope.ndim) if slope.shape[a] > 1 and _sums_to_zero(slope, a)]
    wrong = bool(over) and axis not in over
    if not exam.dry_run.steps.anywhere(wrong):
        return []
    return [other_axis_normalised(tuple(prediction.shape), over[0] if over else 0, axis)]


def _sums_to_zero(slope: Tensor, axis: int) -> bool:
    sums, sizes = slope.double().sum(axis).abs(), slope.double().abs().sum(axis)
    return bool(torch.isfinite(slope).all()) and float(sizes.max()) > 0 and bool((sums <= _ZERO * sizes.max()).all())


def axes_exchanged(module: str, shape: tuple[int, ...], before: tuple[int, ...]) -> Check:
    """Report a module that gets a tensor whose axes were exchanged by a reshape.

    >>> axes_exchanged("net.0", (8, 6, 30), (8, 30, 6)).evidence
    'net.0 gets (8, 6, 30), with the elements in the order of (8, 30, 6)'
    """
    seen = f"{module} gets {shape}, with the elements in the order of {before}"
    return Check("shapes of outputs and labels", False, seen, "permute or transpose in place of view or reshape")


def other_axis_normalised(shape: tuple[int, ...], over: int, classes: int) -> Check:
    """Report a softmax over an axis that is not that of the classes.

    >>> other_axis_normalised((8, 24, 2), 1, 2).passed
    False
    """
    seen = f"the loss normalises outputs {shape} over axis {over}, and the classes are axis {classes}"
    return Check("shapes of outputs and labels", False, seen, f"softmax over the classes: dim={classes}")
