"""The experiments of SanityCheck on samples: does one change the output of another?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination, tensors_of
from lightning_tricks.diagnosis.experiments import NO_INPUT
from lightning_tricks.diagnosis.partners import related
from lightning_tricks.diagnosis.sample_axis import along_second_axis
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.numerics.torch_internals import BATCH_NORM
from lightning_tricks.numerics.trees import tree_map


def sample_independence(exam: Examination) -> list[Check]:
    """Replace all samples but one by others, and look at the row of the output that belongs to it.

    Asked of the first sample and of the last one: a recurrent network that takes the batch for time carries what it has
    seen of the first samples to the later ones, and never back. Samples lie along the second axis where time comes
    first.
    """
    name = "samples do not leak"
    inputs = exam.inputs(exam.batch)
    time_first = along_second_axis(exam)
    axes = dict.fromkeys(map(id, time_first), 1)
    second = exam.dry_run.steps.anywhere(any(id(t) in axes for t in inputs))
    along = [t for t in inputs if id(t) in axes] if second else inputs
    size = max((t.shape[axes.get(id(t), 0)] for t in along), default=0)
    if exam.dry_run.steps.anywhere(size < 2):
        return [Check(name, None, "the batch holds one sample" if inputs else NO_INPUT)]
    kept = [_kept(exam, size, position, axes) for position in (0, size - 1)]
    found = [_changes(exam, kept, size, evaluate=evaluate) for evaluate in (True, False)]
    # (a codebook or a scale that is made of the first batch depends on all of its samples, and then stays)
    if exam.dry_run.steps.anywhere(found[0] is not None and found[0] > sanity.LEAK):
        found[0] = _changes(exam, kept, size, evaluate=True, updates=UPDATES_BEFORE_ASKING)
    if found[0] is None or found[1] is None:
        return [Check(name, None, "no output with one row per sample was seen")]
    changes = found[0], found[1]
    norms = {n: m for n, m in exam.modules.items() if isinstance(m, BATCH_NORM)}
    moved = _by_place_in_batch(exam, size) if changes[0] <= sanity.LEAK and not second else 0.0
    if exam.dry_run.steps.anywhere(moved > sanity.LEAK):
        moved = _by_place_in_batch(exam, size, UPDATES_BEFORE_ASKING)
    reason = "" if second else related(exam, inputs, size, time_first)
    if not reason and exam.first.target is None and not _label_is_given(exam, size):
        reason = "no label is known, and the loss may compare samples"
    if not reason and exam.first.found is None and _mixed_before(exam, kept[0][0], size):
        reason = "the step itself mixes the samples, before they reach the model"
    if not reason and any(not m.track_running_stats for m in norms.values()):
        reason = "a BatchNorm without running statistics looks at the batch always"
    if not reason and exam.dry_run.steps.anywhere(moved > sanity.LEAK):
        return [sanity.depends_on_place(moved)]
    return [sanity.independence(changes[0], changes[1], list(norms), by_design=reason)]


def _by_place_in_batch(exam: Examination, size: int, updates: int = 0) -> float:
    """Return by how much outputs change with the place of a sample in the batch, over their size, in eval mode.

    0 where they are random in eval mode too: noise belongs to a place. 0 as well where the step itself makes the
    difference, before the model sees the samples: random crops belong to a place too, also with a seed of their own.

    Args:
        exam: the examination.
        size: samples in the batch.
        updates: made before it.
    """
    # (labels move with their samples: an output to which a margin was added depends on them)
    other = tree_map(lambda t: t.roll(1, 0) if isinstance(t, Tensor) and t.ndim and len(t) == size else t, exam.batch)
    usual = exam.prediction(exam.batch, evaluate=True, updates=updates)[0]
    again = exam.prediction(exam.batch, evaluate=True, updates=updates, shifted=True)[0]
    moved = exam.prediction(other, evaluate=True, updates=updates)[0]
    if usual is None or again is None or moved is None or not usual.shape == again.shape == moved.shape:
        return 0.0
    scale = max(float(usual.float().abs().max()), 1e-12)
    if float((usual.float() - again.float()).abs().max()) > 1e-6 * scale:
        return 0.0
    # (by every reading of the shape, as above)
    readings = zip(*(_by_sample(t.float(), size) for t in (usual, moved)), strict=True)
    changes = [float((shifted.roll(-1, 0) - whole).abs().max()) / scale for whole, shifted in readings]
    change = min(changes, default=0.0)
    return change if change <= sanity.LEAK or _entry_follows(exam, other, size) else 0.0


def _into_modules(exam: Examination, batch: Any, *, learning: bool = False) -> list[Tensor]:
    """Return the tensors that are given to the parts of the model, in the order of their calls.

    Args:
        exam: the examination; its dry run starts again.
        batch: what the step is given.
        learning: of parts that have parameters of their own only.
    """
    given: list[Tensor] = []
    exam.dry_run.restart()
    handles = [
        m.register_forward_pre_hook(Hook(lambda _, args: given.extend(t.detach() for t in tensors_of(args))))
        for name, m in exam.modules.items()
        if name and (not learning or any(True for _ in m.parameters(recurse=False)))
    ]
    try:
        exam.look(batch)
    finally:
        for handle in handles:
            handle.remove()
    return given


def _entry_follows(exam: Examination, rolled: Any, size: int) -> bool:
    """Whether what goes into the first module that sees the samples is in the order of the batch, here and rolled."""
    seen: list[list[Tensor]] = []
    for batch in (exam.batch, rolled):
        with exam.evaluating():
            entries = _into_modules(exam, batch, learning=True)
        seen.append([t for t in entries if t.ndim and len(t) == size])
    pairs = [(a, b) for a, b in zip(*seen, strict=False) if a.shape == b.shape and not torch.equal(a, b)]
    return bool(pairs) and torch.equal(pairs[0][1].roll(-1, 0), pairs[0][0])


def _changes(
    exam: Examination, kept: Sequence[tuple[Any, Any]], size: int, *, evaluate: bool, updates: int = 0
) -> float | None:
    """Return by how much the output of a sample changes with the others, at most; None where no output is by samples.

    Args:
        exam: the examination.
        kept: of some samples, what ``_kept`` returned.
        size: samples in the batch.
        evaluate: in eval mode.
        updates: made before it.
    """
    usual = exam.prediction(exam.batch, evaluate=evaluate, updates=updates)[0]
    found = []
    for batches in kept:
        seen = [usual, *(exam.prediction(batch, evaluate=evaluate, updates=updates)[0] for batch in batches)]
        outputs = [t for t in seen if t is not None]
        leak = _leak(outputs, size) if len(outputs) == len(seen) else None
        if leak is None:
            return None
        found.append(leak)
    return max(found)


def _label_is_given(exam: Examination, size: int) -> bool:
    """Whether a loss function is given a tensor of the batch as it is, with one label for each sample."""
    tensors = enumerate(tensors_of(exam.batch))
    labels = [t for i, t in tensors if exam.roles.get(i) == "target" and t.ndim and len(t) == size]
    given = [call.target for call in exam.first_calls()]
    return any(t.shape == other.shape and torch.equal(t, other) for t in labels for other in given)


def _kept(exam: Examination, size: int, position: int, axes: Mapping[int, int]) -> tuple[Any, Any]:
    """Return two batches: one in which only that sample is the same, and one in which only that sample is another.

    Args:
        exam: the examination.
        size: samples in the batch.
        position: of the sample.
        axes: by the id of a tensor, the axis of its samples; the first one where it is not said.
    """
    far = size - 1 - position  # (the first or the last)

    def one_replaced(t: Tensor) -> Tensor:
        return torch.cat([t[:position], t[far : far + 1], t[position + 1 :]])

    def others_replaced(t: Tensor) -> Tensor:
        # (the same ones in another order would have the same mean)
        other = t[far : far + 1] if size > 2 else t[position : position + 1]
        alone = other.expand(size, *t.shape[1:]).clone()
        alone[position] = t[position]
        return alone

    def changed(t: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        axis = axes.get(id(t), 0)
        return change(t.transpose(0, axis)).transpose(0, axis) if t.shape[axis] == size else t

    return exam.with_inputs(lambda t: changed(t, others_replaced)), exam.with_inputs(lambda t: changed(t, one_replaced))


def _leak(seen: list[Tensor], size: int) -> float | None:
    """Return by how much the row of a sample changes with the other samples, as a share of the outputs' size.

    None where no output has rows of samples. Shapes may not tell which axis is theirs, as with as many classes as
    samples. Where samples leak they do by every reading, so the smallest counts.

    Args:
        seen: outputs for the batch, with the others replaced, and with the sample replaced.
        size: samples in the batch.

    >>> usual, sample_replaced = torch.eye(4), torch.eye(4).index_fill(0, torch.tensor([1]), 2.0)
    >>> _leak([usual, usual, sample_replaced], 2), _leak([usual, usual, sample_replaced], 3)
    (0.0, None)
    """
    changes = []
    for whole, other, rest in zip(*(_by_sample(t.float(), size) for t in seen), strict=True):
        scale = max(float(whole.abs().max()), 1e-12)
        # (a module may shuffle the batch: the row of the sample is the one that changes with it)
        row = int((whole - rest).abs().amax(1).argmax())
        change = float((whole[row] - other[row]).abs().max()) / scale
        # a step may sort the batch by what it holds, as by time: then the row is somewhere else
        if change > sanity.LEAK:
            row = int(torch.cdist(whole, rest, p=math.inf).amin(1).argmax())
            change = min(change, float(torch.cdist(whole[row : row + 1], other, p=math.inf).min()) / scale)
        changes.append(change)
    return min(changes, default=None)


def _by_sample(output: Tensor, size: int) -> list[Tensor]:
    """Return an output as ``[samples, values]``, in each way in which its shape can be read.

    >>> [t.shape for t in _by_sample(torch.zeros(6, 2, 5), 2)]
    [torch.Size([2, 30]), torch.Size([2, 30]), torch.Size([2, 30])]
    """
    found = []
    if output.ndim > 1 and output.shape[1] == size:  # time first
        found.append(output.transpose(0, 1))
    if output.ndim and len(output) % size == 0:
        found.append(output.reshape(size, -1))
        if len(output) > size:  # places one after another, those of each sample or those of each time
            found.append(output.reshape(-1, size, *output.shape[1:]).transpose(0, 1))
    return [t.reshape(size, -1) for t in found]


def _mixed_before(exam: Examination, replaced: Any, size: int) -> bool:
    """Whether rows that reach the model's first module depend on a few samples each, as those of mixed images do.

    Rows that depend on all samples, as through a mean over the batch, are another matter: there samples leak.

    Args:
        exam: the examination.
        replaced: the batch in which only the first sample is the same.
        size: samples in the batch.
    """

    def with_second_replaced(usual: Any, other: Any) -> Any:
        whole = isinstance(usual, Tensor) and usual.ndim > 0 and len(usual) == size
        return torch.cat([usual[:1], other[1:2], usual[2:]]) if whole else usual

    entries: list[Tensor | None] = []
    for batch in (exam.batch, tree_map(with_second_replaced, exam.batch, replaced)):
        seen = [t for t in _into_modules(exam, batch) if t.is_floating_point()]
        entries.append(seen[0] if seen and seen[0].ndim else None)
    one, two = entries
    if exam.dry_run.steps.anywhere(one is None or two is None or len(one) != size) or one is None or two is None:
        return False
    known = {id(t) for t in tensors_of(exam.batch)}
    given = [t for t in exam.inputs(exam.batch) if t.shape == one.shape and t.is_floating_point() and id(t) in known]
    # (rows that are only in another order are not a mixture)
    rows = [torch.cdist(one.flatten(1).double(), t.flatten(1).double()).amin(1) for t in given]
    scale = float(one.abs().amax()) * one[0].numel() ** 0.5
    mixture = all(float(r.median()) > 1e-3 * scale for r in rows)
    touched = int((one != two).flatten(1).any(1).sum())
    return bool(rows) and mixture and 0 < touched <= size // 2
