"""The experiments of SanityCheck on sequences: does an output see what comes after its place?"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination, tensors_of
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.labels import counts
from lightning_tricks.numerics.trees import tree_map


def future(exam: Examination) -> list[Check]:
    """Where each next element of a sequence is predicted, replace later elements and look at earlier outputs."""
    sequence = _sequence(exam)
    if exam.dry_run.steps.anywhere(sequence is None) or sequence is None:
        return _copied(exam)
    name, length = "no look into the future", sequence.shape[1]
    middle = length // 2
    before = torch.arange(length, device=sequence.device) < middle

    def later(t: Tensor) -> Tensor:
        mask = before.view(1, -1, *([1] * (t.ndim - 2)))
        # (from another sample and another place: many samples have the same element at one place)
        return torch.where(mask, t, t.roll(1, 0).roll(1, 1))

    batch = tree_map(lambda t: later(t) if t is sequence else t, exam.batch)
    # (a head that begins at zero hides the sequence until it has been updated)
    for updates in (0, UPDATES_BEFORE_ASKING):
        whole, _ = exam.prediction(exam.batch, evaluate=True, updates=updates)
        other, _ = exam.prediction(batch, evaluate=True, updates=updates)
        if whole is None or other is None or whole.shape != other.shape:
            return [Check(name, None, "no output with one place per element was seen")]
        pair = [_by_place(t.float(), len(sequence), length) for t in (whole, other)]
        if pair[0] is None or pair[1] is None:
            return [Check(name, None, "no output with one place per element was seen")]
        apart = (pair[0] - pair[1]).abs()
        scale = max(float(pair[0].abs().max()), 1e-12)
        change, any_change = float(apart[:, :middle].max()) / scale, float(apart.max()) / scale
        if exam.dry_run.steps.anywhere(any_change > 1e-6):
            full = str(exam.dry_run.steps.trainer.precision).startswith(("32", "64"))
            return [sanity.no_future(change, sanity.RESOLUTION if full else sanity.LEAK)]
    return [Check(name, None, "outputs do not depend on the sequence")]


def _copied(exam: Examination) -> list[Check]:
    """Where the target of each place is the input of that place, look whether the model sees it and nothing later.

    Then it has only to copy. A network that sees the whole sequence is another matter: an autoencoder.
    """
    target = exam.first.target
    tokens = exam.first.found is not None and target is not None and not target.is_floating_point()
    if not tokens or target is None or target.ndim != 2 or target.shape[1] < 3 or len(target) < 2:
        source = None
    else:
        alike = [t for t in tensors_of(exam.batch) if t.shape == target.shape and not t.is_floating_point()]
        known = [t for t in alike if bool((t == target)[counts(target)].all())]
        source = next((t for t in known if exam.roles.get(_at(tensors_of(exam.batch), t)) == "input"), None)
    if exam.dry_run.steps.anywhere(source is None) or source is None:
        return []
    n, length = source.shape
    middle = length // 2
    changed = source.clone()
    changed[:, middle] = source.roll(1, 0)[:, middle]
    batch = tree_map(lambda t: changed if t is source else t, exam.batch)
    pair = [exam.prediction(b, evaluate=True, updates=UPDATES_BEFORE_ASKING)[0] for b in (exam.batch, batch)]
    places = [None if p is None else _by_place(p.float(), n, length) for p in pair]
    if places[0] is None or places[1] is None or places[0].shape[1] != length:
        return []
    apart = (places[0] - places[1]).abs().flatten(2).amax((0, 2)) / max(float(places[0].abs().max()), 1e-12)
    return sanity.no_copy(float(apart[:middle].max()), float(apart[middle]))


def _sequence(exam: Examination) -> Tensor | None:
    """Return the tensor of the batch whose next elements are predicted; None where nothing like that is done."""
    look = exam.first
    tensors = tensors_of(exam.batch)
    if look.sequence is not None:
        labels = next((t for t in tensors if t.data_ptr() == look.sequence.data_ptr()), None)
        if labels is None or exam.roles.get(_at(tensors, labels)) != "target":
            return labels
        alike = [t for t in exam.inputs(exam.batch) if t.shape == labels.shape]
        return next((t for t in alike if bool((t == labels)[counts(labels)].all())), None)
    target = look.target
    if look.found is None or target is None or target.ndim < 2 or target.shape[1] < 3:
        return None
    for t in exam.inputs(exam.batch):
        if t.shape == target.shape and t.dtype == target.dtype:
            valid = counts(target[:, :-1]) if not t.is_floating_point() else torch.ones_like(t[:, 1:], dtype=torch.bool)
            same = (t[:, 1:] == target[:, :-1])[valid]
            # (a few elements may have been masked)
            if len(same) and float(same.float().mean()) > 0.99:
                return t
    return None


def _at(tensors: list[Tensor], tensor: Tensor) -> int:
    return next(i for i, t in enumerate(tensors) if t is tensor)


def _by_place(output: Tensor, n: int, length: int) -> Tensor | None:
    """Return an output as ``[n, T, ...]`` with T or T - 1 places; None where it has none."""
    if len(output) in (n * length, n * (length - 1)):
        output = output.reshape(n, -1, *output.shape[1:])
    if output.ndim < 2 or len(output) != n:
        return None
    axis = next((a for a in range(1, output.ndim) if output.shape[a] in (length, length - 1)), None)
    return None if axis is None else output.movedim(axis, 1)
