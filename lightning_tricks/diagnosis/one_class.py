"""Labels of which all are the same: is that all there is to learn?

Then one answer fits whatever the inputs are. It may also be meant: of a pair of which the first one is the better, or
of several choices of which the first one is right, the inputs hold the answer, and without them nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_tricks.diagnosis import sanity_data
from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.loss_calls import LossCall
from lightning_tricks.diagnosis.recognition import LEFT_OUT
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.labels import counts
from lightning_tricks.numerics.trees import tree_map

UPDATES_ON_SOME, UNSEEN = 60, 4
ROUNDS = 4  # of so many updates
FEW_LABELS = 64
MOST_BATCHES = 512  # that are read in search of a second class: a user waits for them
MET = 0.1  # of the first loss: below it, there is nothing left to learn
_LEARNED = 0.7  # of the first loss: below it, enough was learned to ask what it is
_ANYWAY = 0.15  # of what the loss has fallen, it falls without inputs too


def one_class(exam: Examination) -> list[Check]:
    """Are all labels of all the data the same, where the loss is that of outputs and these labels?

    Then a constant is the right answer everywhere. Rare classes are missing in many batches, so that nothing is said
    before the whole data have been read; most data have a second label in the first batches, where reading ends.
    """
    seen = _only_label(exam)
    # (``anywhere``: all processes have to take the same turns)
    if exam.dry_run.steps.anywhere(seen is None) or seen is None or not fits_without_inputs(exam):
        return []
    return [sanity_data.one_label(*seen)]


def _only_label(exam: Examination) -> tuple[int, int, int] | None:
    """Return the label, how many of it there are and the number of classes; None where there is another one."""
    data, known = exam.dry_run.data, _labels_at(exam)
    if known is None or data.batches_per_epoch > MOST_BATCHES:
        return None
    at, classes = known
    exam.dry_run.restart()
    seen: list[Tensor] = []  # the first label
    labels, rows = 0, 0
    for _ in range(int(data.batches_per_epoch)):
        target = tensors_of(data.next_batch())[at]
        values = target[counts(target)] if not target.is_floating_point() else target.flatten()
        seen = seen or list(values[:1])
        if seen and not bool((values == seen[0]).all()):
            return None
        labels, rows = labels + len(values), rows + len(target)
    # (a rest that makes no whole batch may be left out)
    size = len(tensors_of(exam.batch)[at])
    if labels < FEW_LABELS or (rows + size) * exam.dry_run.steps.trainer.world_size <= _samples(exam):
        return None
    return round(float(seen[0])), labels, classes


def _labels_at(exam: Examination) -> tuple[int, int] | None:
    """Return where the labels are among the tensors of a batch, and how many classes there are; None where unknown.

    The loss may be a sum, as of an entropy and the overlap of masks: then what its functions are given tells.
    """
    found, at = exam.first.found, exam.target_at
    if not exam.dry_run.steps.anywhere(found is None) and found is not None:
        about_labels = found.kind in ("cross entropy", "binary cross entropy") and exam.first.sequence is None
        known = about_labels and at is not None and exam.roles.get(at) == "target"
        return (at, 2 if found.logits is None else found.logits.shape[1]) if known and at is not None else None
    calls = [(call, *labels) for call in exam.first_calls() if (labels := _labels_of(call)) is not None]
    # (negatives that the step draws are the second class)
    if not calls or any(len(torch.unique(labels)) != 1 or labels[0] != calls[0][1][0] for _, labels, _ in calls):
        return None
    for i, t in enumerate(tensors_of(exam.batch)):
        told = calls[0][0].target
        if (
            exam.roles.get(i) == "target"
            and t.numel() == told.numel()
            and torch.equal(t.flatten().to(told), told.flatten())
        ):
            return i, calls[0][2]
    return None


def _samples(exam: Examination) -> float:
    """Return how many samples the data have; infinity where that is not known."""
    loaders = exam.dry_run.data.loaders
    if any(not isinstance(x, DataLoader) or isinstance(x.dataset, IterableDataset) for x in loaders):
        return math.inf
    return max((len(x.dataset) for x in loaders if isinstance(x.dataset, Sized)), default=math.inf)


def fits_without_inputs(exam: Examination) -> bool:
    """Whether a short training on labels that are all the same learns an answer that does not depend on the inputs.

    Then the loss falls also where all inputs are the same, and where they are in another order. A model that compares
    what it is given says as little of these as before.
    """
    dry_run = exam.dry_run
    dry_run.restart()
    dry_run.data.hold([dry_run.data.next_batch() for _ in range(UNSEEN)])
    batches = [exam.batch, *(exam.with_inputs(change) for change in (_Same(0.0), _Same(0.5), _turned))]
    first = [_loss(exam, batch) for batch in batches]
    last = first
    for _ in range(ROUNDS):
        for _ in range(UPDATES_ON_SOME):
            dry_run.update()
        last = [_loss(exam, batch) for batch in batches]
        if dry_run.steps.mean(torch.tensor(last[0])) < _LEARNED * dry_run.steps.mean(torch.tensor(first[0])):
            break
    # (a mask of zeros may leave nothing of a prediction)
    fallen, *others = [before - after for before, after in zip(first, last, strict=True)]
    known = [other for other in others if math.isfinite(other)]
    fits = fallen > 0 and bool(known) and min(known) > _ANYWAY * fallen
    return not dry_run.steps.anywhere(not fits)


def _loss(exam: Examination, batch: Any) -> float:
    """Return the loss of a batch in eval mode; NaN where the model does not take it."""
    try:
        with exam.evaluating():
            loss = exam.look(batch).loss
    except Exception:
        return math.nan
    return math.nan if loss is None else float(loss.detach().float().mean())


class _Same:
    """Makes all elements of a tensor the same: 0; of whole numbers, as ids, one that is there.

    It is the same one in all tensors that are as wide, which may be words of two texts that are compared.

    Args:
        place: from which share of the first such tensor it is taken.
    """

    def __init__(self, place: float) -> None:
        self._place = place
        self._chosen: dict[Any, Tensor] = {}

    def __call__(self, t: Tensor) -> Tensor:
        if t.is_floating_point() or not t.numel():
            return torch.zeros_like(t)
        # (a mask must not get an id)
        kind = (t.shape[-1:], bool((t > 1).any()))
        chosen = self._chosen.setdefault(kind, t.flatten()[int(self._place * t.numel())])
        return torch.zeros_like(t) + chosen.to(t)


def _turned(t: Tensor) -> Tensor:
    """Return the same numbers from the last one to the first."""
    return t.flatten().flip(0).view(t.shape)


def one_answer(exam: Examination) -> list[Check]:
    """Are labels that the step makes itself all the same, and is that all there is to learn?

    As of masked words, whose labels are taken after masking, or of masks that are divided twice. Labels that are all
    the same may be meant, as in contrasts whose right answer stands first: then the loss depends on the inputs.
    """
    dry_run = exam.dry_run
    dry_run.restart()
    batches = [dry_run.data.next_batch() for _ in range(UNSEEN)]
    classes_told = ("cross_entropy", "nll_loss")
    seen = [[_labels_of(call) for call in calls if call.name in classes_told] for calls in exam.loss_calls(batches)]
    known = [found[0] for found in seen if found and found[0] is not None]
    labels = torch.cat([label for label, _ in known]) if known else torch.zeros(0)
    same = len(known) == UNSEEN and len(labels) >= FEW_LABELS and bool((labels == labels[0]).all())
    if not same or dry_run.steps.anywhere(not same):
        return []
    # (a picture without any foreground may be all that two classes are about)
    classes, size = known[0][1], len(known[0][0])
    alike = [t for t in tensors_of(batches[0]) if not t.is_floating_point() and t.numel() == size]
    varied = any(bool((t != t.flatten()[0]).any()) for t in alike)
    if dry_run.steps.anywhere(classes < 3 and not varied):
        return []
    losses = _without_inputs(exam, batches)
    if losses is None or max(losses[1:]) > MET * losses[0]:
        return []
    return [sanity_data.one_label(int(labels[0]), len(labels), classes)]


def _labels_of(call: LossCall) -> tuple[Tensor, int] | None:
    """Return the labels that a loss function is given, and how many classes there are; None for another function."""
    if call.name in ("cross_entropy", "nll_loss") and not call.target.is_floating_point() and call.output.ndim > 1:
        return call.target[call.target != call.options.get("ignore_index", LEFT_OUT)], call.output.shape[1]
    if call.name.startswith("binary_cross_entropy"):
        return call.target.flatten(), 2
    return None


def _without_inputs(exam: Examination, batches: list[Any]) -> tuple[float, float, float] | None:
    """Return the loss before a short training, after it, and after it where the inputs are those of other samples."""
    dry_run = exam.dry_run
    dry_run.restart()
    dry_run.data.hold(batches)
    losses = [dry_run.update() for _ in range(ROUNDS * UPDATES_ON_SOME)]
    mixed = tree_map(lambda t: _turned(t) if t.is_floating_point() else t.flip(0), batches[0])
    other = exam.look(mixed).loss
    if losses[0] is None or losses[-1] is None or other is None:
        return None
    return losses[0], losses[-1], dry_run.steps.mean(other)
