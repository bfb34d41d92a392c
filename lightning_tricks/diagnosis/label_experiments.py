"""The experiments of SanityCheck on labels: do they belong to their inputs, or two inputs to each other?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_tricks.diagnosis import sanity_data
from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.one_class import (
    ROUNDS,
    UNSEEN,
    UPDATES_ON_SOME,
    fits_without_inputs,
    one_answer,
    one_class,
)
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.modules.labels import counts
from lightning_tricks.numerics.trees import tree_map

NEIGHBOURS = 1024
SEEN = 16
_MARGIN = 0.03  # of the loss of a batch, by which it is above that of half of it


def labels(exam: Examination) -> list[Check]:
    """Do labels belong to inputs? Nearest neighbours first, a short training where they say nothing."""
    look, at, dry_run = exam.first, exam.target_at, exam.dry_run
    inputs = exam.inputs(exam.batch)
    alone = one_class(exam)
    if alone:
        return alone
    # (``anywhere``, here and below: all processes have to take the same turns)
    if not dry_run.steps.anywhere(look.target is not None):
        return one_answer(exam) or pairs(exam)
    one_each = look.labels is not None and look.target is not None and look.target.shape == (len(look.target),)
    if dry_run.steps.anywhere(not (one_each and inputs and at is not None)) or look.logits is None or at is None:
        return []
    tensors = tensors_of(exam.batch)
    size, source_at = len(look.labels), None  # type: ignore[arg-type]
    for i, t in enumerate(tensors):
        # (a single number is nothing to find neighbours by)
        if any(t is x for x in inputs) and len(t) == size and t[0].numel() > 1 and source_at is None:
            source_at = i
    if dry_run.steps.anywhere(source_at is None) or source_at is None:
        return []
    dry_run.restart()
    rows: list[Tensor] = []
    classes: list[Tensor] = []
    most = min(64, int(min(dry_run.data.batches_per_epoch, 64)))
    while sum(len(t) for t in classes) < NEIGHBOURS and len(classes) < most:
        tensors = tensors_of(dry_run.data.next_batch())
        target, source = tensors[at].reshape(-1).round().long(), tensors[source_at]
        if len(source) != len(target):
            return []
        valid = counts(target)
        rows.append(source[valid].flatten(1).float())
        classes.append(target[valid])
    x, y = torch.cat(rows)[:NEIGHBOURS], torch.cat(classes)[:NEIGHBOURS]
    name = "labels follow from inputs"
    # (actions of a game may be all the same, and they are not labels of this loss)
    if not dry_run.steps.anywhere(
        look.found is None or len(y) < 256 or len(torch.unique(y)) > 1 or look.logits.shape[1] < 3
    ) and fits_without_inputs(exam):
        return [sanity_data.one_label(int(y[0]), len(y), look.logits.shape[1])]
    if dry_run.steps.anywhere(int((torch.bincount(y) >= 8).sum()) < 2):
        return [Check(name, None, "hardly any label but one was seen")]
    discrete = not tensors[source_at].is_floating_point()
    z, share = sanity_data.neighbours_agree(x, y)
    z = dry_run.steps.mean(torch.tensor(z, device=y.device))
    if z > 3 or dry_run.steps.anywhere(discrete):
        return [sanity_data.labels_follow(z, share, 0.0, None)]
    shape = dry_run.steps.mean(torch.tensor(sanity_data.structure(x), device=y.device))
    skill = _skill(exam) if shape >= sanity_data.STRUCTURE and not dry_run.steps.anywhere(look.found is None) else None
    return [sanity_data.labels_follow(z, share, shape, skill)]


def _skill(exam: Examination) -> tuple[float, float] | None:
    """Train for a while on some batches of one pass over the data; return the association on these and on others."""
    dry_run, batches = exam.dry_run, exam.dry_run.data.batches_per_epoch
    apart = min(UNSEEN, int(min(batches, 1e6)) // 4)
    if apart < 1:
        return None
    dry_run.restart()
    unseen = [dry_run.data.next_batch() for _ in range(apart)]
    seen = [dry_run.data.next_batch() for _ in range(min(SEEN, int(min(batches, 1e6)) - apart))]
    dry_run.data.hold(seen)
    for _ in range(UPDATES_ON_SOME):
        dry_run.update()
    with exam.evaluating():
        found = [_association(exam, group) for group in (seen[:UNSEEN], unseen)]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def pairs(exam: Examination) -> list[Check]:
    """Without labels: do two inputs belong to each other? Give each the other's neighbour, before and after a training.

    Images and captions, two views: the loss is higher for wrong pairs.
    """
    dry_run, size = exam.dry_run, max((len(t) for t in exam.inputs(exam.batch)), default=0)
    tensors = tensors_of(exam.batch)
    # (three words say as much as many numbers)
    wide = [
        i
        for i, t in enumerate(tensors)
        if exam.roles.get(i) == "input" and t.ndim > 1 and t[0].numel() >= (4 if t.is_floating_point() else 2)
    ]
    wide = [i for i in wide if len(tensors[i]) == size and size >= 4]
    batches = int(min(dry_run.data.batches_per_epoch, 1e6))
    known = exam.first.target is not None or exam.first.sequence is not None
    if dry_run.steps.anywhere(known or len(wide) != 2 or not any(tensors[i].is_floating_point() for i in wide)):
        return []
    if batches < 8 or exam.first.loss is None:
        return []
    dry_run.restart()
    read = [dry_run.data.next_batch() for _ in range(min(SEEN + 2 * UNSEEN, batches))]
    unseen, seen = read[: len(read) // 3], read[len(read) // 3 :]
    source = next(i for i in wide if tensors[i].is_floating_point())
    rows = torch.cat([tensors_of(batch)[source].flatten(1).float() for batch in read])[:NEIGHBOURS]
    shape = dry_run.steps.mean(torch.tensor(sanity_data.structure(rows), device=rows.device))
    at_once = _gain_of_pairs(exam, unseen, wide[1])
    if at_once > 3 or shape < sanity_data.STRUCTURE:
        return [sanity_data.pairs_belong(at_once, shape, None)]
    dry_run.data.hold(seen)
    before = [_mean_loss(exam, group) for group in (seen, unseen)]
    contrasts = _compares_samples(exam, unseen, wide[1])
    for _ in range(ROUNDS):  # until seen pairs are memorised, or unseen ones recognised
        for _ in range(UPDATES_ON_SOME):
            dry_run.update()
        skill = (_gain_of_pairs(exam, seen, wide[1]), _gain_of_pairs(exam, unseen, wide[1]))
        old, new = (loss - _mean_loss(exam, group) for loss, group in zip(before, (seen, unseen), strict=True))
        learned = 0.0 if contrasts else new / old if old > 0 else 1.0
        check = sanity_data.pairs_belong(at_once, shape, skill, learned)
        if dry_run.steps.anywhere(check.passed is not None):
            break
    return [check]


def _mean_loss(exam: Examination, batches: list[Any]) -> float:
    """Return the mean loss of some batches in eval mode, each with the same random numbers."""
    state, losses = global_state(), []
    with exam.evaluating():
        for batch in batches:
            set_global_state(state)
            loss = exam.look(batch).loss
            losses.append(0.0 if loss is None else exam.dry_run.steps.mean(loss))
    return sum(losses) / len(losses)


def _compares_samples(exam: Examination, batches: list[Any], at: int) -> bool:
    """Whether each sample is told from the others of its batch: then the loss of half a batch is lower."""
    halves = []
    for batch in batches:
        size = len(tensors_of(batch)[at])
        halves += [
            tree_map(lambda t, part=part, size=size: t[part] if t.ndim and len(t) == size else t, batch)
            for part in (slice(0, size // 2), slice(size // 2, None))
        ]
    whole, half = _mean_loss(exam, batches), _mean_loss(exam, halves)
    # (the loss of a sum is half as large)
    return _MARGIN * whole < whole - half < whole / 3


def _gain_of_pairs(exam: Examination, batches: list[Any], at: int) -> float:
    """Return by how many standard errors the loss is higher where one of two inputs is that of another sample."""
    gains: list[float] = []
    state = global_state()
    with exam.evaluating():
        for batch in batches:
            moved = tensors_of(batch)[at]
            losses: list[float] = []
            for step in (0, 1, 2, 3):
                # (the same random numbers each time, so that only the pairs differ)
                set_global_state(state)
                other = tree_map(lambda t, step=step, moved=moved: t.roll(step, 0) if t is moved else t, batch)
                loss = exam.look(other).loss
                losses.append(0.0 if loss is None else exam.dry_run.steps.mean(loss))
            gains.append(sum(losses[1:]) / 3 - losses[0])
    return sanity_data.standard_errors(gains)


def _association(exam: Examination, batches: list[Any]) -> float | None:
    pairs = []
    for look in [exam.look(batch) for batch in batches]:
        if look.logits is not None and look.labels is not None:
            valid = counts(look.labels)
            pairs.append((look.logits[valid].float().softmax(1), look.labels[valid]))
    if exam.dry_run.steps.anywhere(not pairs):
        return None
    z = sanity_data.association(torch.cat([p for p, _ in pairs]), torch.cat([y for _, y in pairs]))
    return exam.dry_run.steps.mean(torch.tensor(z, device=pairs[0][1].device))
