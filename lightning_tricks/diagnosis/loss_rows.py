"""Do the rows that a loss compares belong to each other? Experiments of SanityCheck on what is made inside the step.

One sample of the batch is replaced, or one row of the noise that the step draws. The rows of the output of a loss that
change, and the rows of its target, are those of that sample: where they have none in common, an output is compared with
what belongs to another sample, or with noise that nothing in the model has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination, tensors_of
from lightning_tricks.diagnosis.loss_calls import LossCall, LossCalls
from lightning_tricks.diagnosis.partners import related
from lightning_tricks.diagnosis.sample_axis import along_second_axis
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.step_calls import Draws, watched
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.numerics.trees import tree_map

_ERRORS = ("huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss")
_FEWEST = 4  # samples of a batch
_MOST = 8  # samples that are replaced to find out who belongs to whom
_DRAWN = 5  # rows of noise that are changed
_CLOSE = 1e-3  # of a loss


class Rows(NamedTuple):
    """Which rows of a loss change with something.

    Args:
        output: of its output.
        target: of its target.
    """

    output: frozenset[int] = frozenset()
    target: frozenset[int] = frozenset()


# -- samples ----------------------------------------------------------------------------------------------------------


def misplaced(exam: Examination) -> list[Check]:
    """Replace one sample: the rows of output and target that change must have one in common."""
    size = max((len(t) for t in exam.inputs(exam.batch)), default=0)
    if exam.dry_run.steps.anywhere(size < _FEWEST or not any(c.target.ndim for c in exam.first_calls())):
        return []
    usual, seen, updates = _calls(exam, exam.batch, 0), dict[int, list[Rows]](), 0
    # (a head that begins at zero shows nothing until it has been updated)
    for updates in (0, UPDATES_BEFORE_ASKING):
        usual = _calls(exam, exam.batch, updates)
        seen = {place: _changed_rows(exam, usual, size, place, updates) for place in (1, size // 2)}
        if not exam.dry_run.steps.anywhere(any(r.target and not r.output for rows in seen.values() for r in rows)):
            break
    inputs = exam.inputs(exam.batch)
    if exam.dry_run.steps.anywhere(not _suspects(usual, seen)):
        return []
    if related(exam, inputs, size, along_second_axis(exam)):
        return []
    # (the first and the last: what is compared with its neighbour in a series has none at one end)
    seen |= {place: _changed_rows(exam, usual, size, place, updates) for place in (0, size - 1)}
    others = {sample for rows in seen.values() for sample in _partners(usual, rows, size)}
    for place in [*sorted(others), *[0] * _MOST][:_MOST]:  # (as many on all processes)
        seen[place] = _changed_rows(exam, usual, size, place, updates)
    found = [i for i in _suspects(usual, seen) if not mutual([rows[i] for rows in seen.values()])]
    if exam.dry_run.steps.anywhere(not found):
        return []
    at = found[0]
    place = next(place for place, rows in seen.items() if _apart(rows[at]))
    output, target = (min(rows) for rows in seen[place][at])
    told = f"sample {place} is row {output} of what {usual[at].name} is given and row {target} of its target"
    fix = "look at the order of both: a shuffle or a roll of one of them"
    return [Check("shapes of outputs and labels", False, told, fix)]


def _partners(calls: Sequence[LossCall], seen: Sequence[Rows], size: int) -> list[int]:
    """Return the samples whose outputs are compared with what belongs to one; rows may be places of samples."""
    found = [(min(rows.target), len(call.target)) for call, rows in zip(calls, seen, strict=False) if rows.target]
    return [sample for row, count in found for sample in (row // max(1, count // size), row % size) if sample < size]


def mutual(seen: Sequence[Rows]) -> bool:
    """Whether rows may be compared with each other in turn, as two views are, or each with its neighbour in a series.

    Args:
        seen: rows of output and target that change with a sample, for several samples.

    >>> def compared(*pairs):
    ...     return [Rows(frozenset({one}), frozenset({other})) for one, other in pairs]
    >>> mutual(compared((1, 3), (3, 1), (0, 2))), mutual(compared((1, 2), (3, 4), (0, 1)))
    (True, True)
    >>> mutual(compared((1, 3), (3, 0), (0, 1)))
    False
    """
    partner = {min(rows.output): min(rows.target) for rows in seen}
    known = [partner[other] == one for one, other in partner.items() if other in partner and other != one]
    steps = [other - one for one, other in partner.items()]
    return (bool(known) and all(known)) or any(steps.count(step) >= len(steps) - 1 for step in (-1, 1))


def _suspects(calls: Sequence[LossCall], seen: Mapping[int, Sequence[Rows]]) -> list[int]:
    """Return the numbers of calls whose output and target change in other rows, for each sample that was replaced.

    A mixture of samples is compared with both labels, one call for each: where one of them is right, none is wrong.
    """
    apart = [
        i
        for i, call in enumerate(calls)
        if call.options.get("reduction", "mean") != "none"
        and _mostly_apart([rows[i : i + 1] for rows in seen.values()])
    ]
    right = [call.output for i, call in enumerate(calls) if i not in apart]
    return [i for i in apart if not any(_the_same(calls[i].output, output) for output in right)]


def _the_same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)


def _apart(rows: Rows) -> bool:
    return bool(rows.output and rows.target) and not rows.output & rows.target


def _mostly_apart(seen: Sequence[Sequence[Rows]]) -> bool:
    """Whether output and target change in other rows, but for one at most: a shuffle may leave one where it was."""
    rows = [each[0] for each in seen if each]
    told = len(rows) == len(seen) and all(each.output and each.target for each in rows)
    return told and sum(map(_apart, rows)) >= max(1, len(rows) - 1)


def _calls(exam: Examination, batch: Any, updates: int) -> list[LossCall]:
    calls = LossCalls()
    watched(exam, batch, calls, updates=updates)
    return calls.found


def _changed_rows(exam: Examination, usual: Sequence[LossCall], size: int, place: int, updates: int) -> list[Rows]:
    """Return what changes in the calls of loss functions with one sample; nothing where their number does."""
    tensors = [t for t in tensors_of(exam.batch) if t.ndim and len(t) == size]
    # (by one that differs in as many tensors as possible)
    other = int(torch.stack([(t != t[place]).reshape(size, -1).any(1) for t in tensors]).sum(0).argmax())
    own = {id(t) for t in tensors}

    def replaced(t: Tensor) -> Tensor:
        t = t.clone()
        t[place] = t[other]
        return t

    batch = tree_map(lambda t: replaced(t) if id(t) in own else t, exam.batch)
    return _rows_of(usual, _calls(exam, batch, updates))


def _rows_of(one: Sequence[LossCall], two: Sequence[LossCall]) -> list[Rows]:
    if len(one) != len(two):
        return []
    return [Rows(_rows(a.output, b.output), _rows(a.target, b.target)) for a, b in zip(one, two, strict=True)]


def _rows(one: Tensor, two: Tensor) -> frozenset[int]:
    """Return the rows that differ; none for tensors of different forms.

    >>> _rows(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    frozenset({1})
    """
    if one.shape != two.shape or not one.ndim:
        return frozenset()
    return frozenset((one != two).reshape(len(one), -1).any(1).nonzero().flatten().tolist())


# -- noise ------------------------------------------------------------------------------------------------------------


def unrelated_draws(exam: Examination) -> list[Check]:
    """Where the target is noise that the step has drawn, change a row of it: the prediction of that row must change."""
    calls = exam.first_calls()
    if exam.dry_run.steps.anywhere(len(calls) != 1 or calls[0].name not in _ERRORS):
        return []
    draws, usual, at = Draws(), LossCalls(), None
    for updates in (0, UPDATES_BEFORE_ASKING):  # (the second time only where it may be so at the beginning)
        draws, usual = Draws(), LossCalls()
        result = watched(exam, exam.batch, draws, usual, updates=updates)
        at = _drawn(draws.found, usual.found, loss_of(result))
        if exam.dry_run.steps.anywhere(at is None):
            return []
    if at is None:
        return []
    size = len(draws.found[at])
    seen: list[Rows] = []
    for row in [i * (size - 1) // (_DRAWN - 1) for i in range(_DRAWN)]:
        again = LossCalls()
        changed = Draws(at, lambda t, row=row: _negated(t, row))  # type: ignore[misc]
        watched(exam, exam.batch, changed, again, updates=UPDATES_BEFORE_ASKING)
        seen += _rows_of(usual.found, again.found)
    # (a shuffle may leave one where it was)
    kept = sum(bool(rows.output & rows.target) for rows in seen)
    apart = len(seen) == _DRAWN and kept <= 1 and all(rows.target for rows in seen)
    if exam.dry_run.steps.anywhere(not apart) or exam.dry_run.steps.anywhere(not _alive(exam, usual.found)):
        return []
    unseen = not any(rows.output for rows in seen)
    what = "noise that the prediction does not depend on" if unseen else "the noise of other samples"
    fix = "compare with the noise that was added to the input, row by row, and do not draw it again"
    return [Check("labels follow from inputs", False, f"the target of {calls[0].name} is {what}", fix)]


def _drawn(draws: Sequence[Tensor], calls: Sequence[LossCall], loss: Tensor | None) -> int | None:
    """Return which draw is the target of the only call, and that call the whole loss; rows may be in another order."""
    if len(calls) != 1 or loss is None:
        return None
    call = calls[0]
    each = F.mse_loss if call.name == "mse_loss" else getattr(F, call.name)
    if call.output.shape != call.target.shape or call.target.ndim < 1 or len(call.target) < _FEWEST:
        return None
    mean = each(call.output.float(), call.target.float())
    factors = (1.0, float(call.target.numel()), float(call.target[0].numel()))
    if not any(torch.allclose(loss.detach().float().mean(), mean * factor, rtol=_CLOSE) for factor in factors):
        return None
    return next((i for i, draw in enumerate(draws) if _same_rows(call.target, draw)), None)


def _same_rows(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors have the same rows in any order.

    >>> noise = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    >>> _same_rows(noise.roll(1, 0), noise), _same_rows(2 * noise, noise)
    (True, False)
    """
    if one.shape != two.shape or not one.ndim:
        return False
    ordered = [t[t.reshape(len(t), -1)[:, 0].argsort()] for t in (one, two.to(one.dtype))]
    return torch.equal(ordered[0], ordered[1])


def _negated(draw: Tensor, row: int) -> Tensor:
    draw[row] = -draw[row]
    return draw


def _alive(exam: Examination, usual: Sequence[LossCall]) -> bool:
    """Whether the prediction depends on the batch at all: else nothing can be told."""
    batch = tree_map(lambda t: t.roll(1, 0) if t.ndim else t, exam.batch)
    return any(rows.output for rows in _rows_of(usual, _calls(exam, batch, UPDATES_BEFORE_ASKING)))
