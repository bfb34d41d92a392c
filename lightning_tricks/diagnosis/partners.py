"""Which label goes with which input: an experiment of SanityCheck with backward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.sample_axis import along_second_axis
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.trees import tree_map

_EDGES = 2  # rows of a list of edges
_FEWEST_ROWS = 3  # fewer may be equal by chance
_ROUNDING = 1e-4  # of a gradient


def partners(exam: Examination) -> list[Check]:
    """Change one sample's input, then its label: the gradients that change must be those of the same rows."""
    inputs = exam.inputs(exam.batch)
    at = next((i for i, role in exam.roles.items() if role == "target"), None)
    at = exam.target_at if exam.first.target is not None else at
    asked = at is not None and exam.roles.get(at) == "target" and bool(inputs)
    if exam.dry_run.steps.anywhere(not asked) or not asked:
        return []
    tensors = tensors_of(exam.batch)
    target = tensors[at]  # type: ignore[index]
    size = len(target) if target.ndim else 0
    if exam.dry_run.steps.anywhere(size < 4 or bool(related(exam, inputs, size, along_second_axis(exam)))):
        return []
    sample = 1  # (the first one is at its place whatever happens to the others)
    differs = (target != target[sample]).flatten(1).any(1) if target.ndim > 1 else target != target[sample]
    if exam.dry_run.steps.anywhere(not bool(differs.any())):
        return []
    other = int(differs.float().argmax())
    chosen = {id(t) for t in inputs if len(t) == size}

    def moved(t: Tensor) -> Tensor:
        t = t.clone()
        t[sample] = t[other]
        return t

    with_label = tree_map(lambda t: moved(t) if t is target else t, exam.batch)
    with_input = tree_map(lambda t: moved(t) if id(t) in chosen else t, exam.batch)
    values, slopes = zip(*[_entry(exam, batch) for batch in (exam.batch, with_input, with_label)], strict=True)
    if any(v is None for v in (*values, *slopes)) or len({v.shape for v in values}) > 1:
        return []
    by_input = _rows(values[0] - values[1])
    by_label = _rows(slopes[0] - slopes[2])
    # (rows that most samples reach are not samples themselves)
    if len(by_input) > len(values[0]) // 2:
        return []
    check = sanity.wrong_partner(by_input, by_label, sample)
    return [] if check is None else [check]


def outputs_meet(exam: Examination) -> bool:
    """Whether the gradients of some samples change with the inputs of others, in eval mode.

    A loss that stays the same when its targets change places may be one of a broadcast, ``[n, 1]`` against ``[n]``, or
    one of two distributions: the maximum mean discrepancy, an energy distance, a difference of moments or of sorted
    numbers. What a broadcast adds up has one output in it, so that the gradient of an output does not depend on the
    others. Between distributions it does: equal outputs push each other apart, or ranks decide who is compared.
    """
    prediction, size = exam.first.prediction, max((len(t) for t in exam.inputs(exam.batch)), default=0)
    known = prediction is not None and prediction.numel() == size
    order = prediction.flatten().argsort() if known and prediction is not None else torch.arange(size)
    # (the lower half takes the place of the highest: each of the others is between the two)
    moved, highest = order[: size // 2], order[-1:]

    def changed(t: Tensor) -> Tensor:
        return t.index_copy(0, moved.to(t.device), t[highest.to(t.device)].expand(len(moved), *t.shape[1:]))

    other = exam.with_inputs(lambda t: changed(t) if len(t) == size else t)
    values, slopes = zip(*[_entry(exam, batch) for batch in (exam.batch, other)], strict=True)
    if size < _FEWEST_ROWS or any(t is None or t.shape != values[0].shape for t in (*values, *slopes)):
        return False
    kept = (values[0] == values[1]).flatten(1).all(1)
    left, right = (slope[kept] for slope in slopes)
    scale = max((float(t.abs().max()) for t in (left, right) if t.numel()), default=0.0)
    return bool(((left - right).abs() > _ROUNDING * scale).any())


def _rows(change: Tensor) -> list[int]:
    size = change.abs().flatten(1).amax(1)
    return [int(i) for i in (size > 1e-3 * size.max()).nonzero().flatten()] if float(size.max()) > 0 else []


def _entry(exam: Examination, batch: Any) -> tuple[Any, Any]:
    """Return what goes into the first layer, or comes out of the first embedding, and the loss's gradient by it."""
    exam.dry_run.restart()
    entries: list[Tensor] = []

    def before(args: Any) -> None:
        for t in floating(list(args))[:1]:
            if not entries and t.is_leaf and not t.requires_grad and t.ndim > 1:
                entries.append(t.requires_grad_())

    def after(output: Tensor) -> None:
        if not entries:
            entries.append(output if output.requires_grad else output.requires_grad_())

    handles = []
    for m in exam.modules.values():
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag)):
            handles.append(m.register_forward_hook(Hook(lambda _, args, out: after(out))))
        elif any(True for _ in m.parameters(recurse=False)):
            handles.append(m.register_forward_pre_hook(Hook(lambda _, args: before(args))))
    try:
        with exam.evaluating():
            loss = exam.look(batch, gradient=True).loss
    finally:
        for handle in handles:
            handle.remove()
    if loss is None or not loss.requires_grad or not entries:
        return None, None
    (slope,) = torch.autograd.grad(loss, entries[:1], allow_unused=True)
    return entries[0].detach(), None if slope is None else slope.detach()


def related(exam: Examination, inputs: list[Tensor], size: int, time_first: Sequence[Tensor]) -> str:
    """Return why the rows of these inputs may belong together; empty where they are samples.

    Args:
        exam: the examination; its dry run starts again.
        inputs: of the batch.
        size: samples in the batch.
        time_first: what ``along_second_axis`` returned.
    """
    exam.dry_run.restart()
    first, second = exam.dry_run.data.next_batch(), exam.dry_run.data.next_batch()
    if exam.dry_run.data.batches_per_epoch == 1 or _the_same(first, second):
        return "every batch is the same: the rows of one graph or series"
    if any(t is second for second in time_first for t in inputs):
        return "time comes first: samples lie along the second axis"
    for t in inputs:
        # (numbers below the size may be indices of rows)
        edges = not t.is_floating_point() and t.ndim == 2 and _EDGES in t.shape and int(t.max()) < size
        matrix = t.shape == (size, size) and len(inputs) > 1 and bool((t >= 0).all())
        if matrix or (edges and len(t) != size) or t.layout != torch.strided:
            return "the batch holds what relates its rows to each other, as a graph"
        if any(_next_along(t, other, 0) and not _next_along(t, other, 1) for other in tensors_of(exam.batch)):
            return "time comes first: each row's targets are the inputs of the next row"
    return ""


def _next_along(inputs: Tensor, targets: Tensor, axis: int) -> bool:
    """Whether targets, which may be flat, are the inputs one place further along an axis."""
    length = inputs.shape[axis] - 1 if inputs.ndim > axis else 0
    if targets is inputs or length < _FEWEST_ROWS or targets.numel() != inputs.numel():
        return False
    following, told = inputs.narrow(axis, 1, length), targets.reshape(inputs.shape).narrow(axis, 0, length)
    return torch.equal(following, told.to(following.dtype)) and not bool((following == following.flatten()[0]).all())


def _the_same(left: Any, right: Any) -> bool:
    pairs = list(zip(*[tensors_of(b) for b in (left, right)], strict=False))
    return bool(pairs) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
