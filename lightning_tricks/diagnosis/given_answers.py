"""Is a decoder given what it has to say? An experiment of SanityCheck on ids that a step makes itself.

Where the ids that an embedding gets are the classes that the loss asks for at the same places, one of them is changed.
If the outputs of earlier places stay, and that of the same place and of later ones change, the model goes through the
sequence in order and sees each answer. Where it sees the whole sequence, it may be an autoencoder; where each place is
for itself, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination
from lightning_tricks.diagnosis.loss_calls import LossCall, LossCalls
from lightning_tricks.diagnosis.recognition import LEFT_OUT
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.step_calls import Lookups, watched

_FEWEST, _VARIED = 16, 3  # answers that count, and different ones among them
_CLASSES = ("cross_entropy", "nll_loss")
_LENGTH = 3  # of a sequence at least


def given_answers(exam: Examination) -> list[Check]:
    """Change one place of the ids that are the answers, and look at the outputs before, there and behind."""
    if exam.dry_run.steps.anywhere(not any(call.name in _CLASSES for call in exam.first_calls())):
        return []
    with_ids, calls = Lookups(), LossCalls()
    pairs: list[tuple[int, int]] = []
    # (after some updates: a head that begins at zero shows nothing; asked only where it may be so at the beginning)
    for updates in (0, UPDATES_BEFORE_ASKING):
        with_ids, calls = Lookups(), LossCalls()
        watched(exam, exam.batch, with_ids, calls, updates=updates)
        pairs = answered(with_ids.found, calls.found)
        if exam.dry_run.steps.anywhere(not pairs):
            return []
    # (an encoder may be given the same ids as its decoder; as many experiments on all processes)
    chosen = [pairs[0], pairs[-1]] if exam.dry_run.steps.anywhere(len(pairs) > 1) else pairs
    for at, asked in chosen:
        found = _copied(exam, with_ids.found[at], at, calls, asked)
        if found:
            return found
    return []


def _copied(exam: Examination, ids: Tensor, at: int, calls: LossCalls, asked: int) -> list[Check]:
    """Change the ids of one lookup, and look at what a call is given.

    Args:
        exam: the examination.
        ids: of the lookup.
        at: its number.
        calls: of the step as it is.
        asked: number of the call.
    """
    for axis in (1, 0):
        if ids.shape[axis] < _LENGTH or ids.shape[1 - axis] < 2:
            continue
        changed = Lookups(at, lambda t, axis=axis: _with_others(t, axis))  # type: ignore[misc]
        again = LossCalls()
        watched(exam, exam.batch, changed, again, updates=UPDATES_BEFORE_ASKING)
        same = len(again.found) == len(calls.found)
        apart = _by_place(calls.found[asked], again.found[asked], ids.shape, axis) if same else None
        found = [] if apart is None else copies(apart)
        if exam.dry_run.steps.anywhere(not found):
            continue
        return found
    return []


def answered(lookups: Sequence[Tensor], calls: Sequence[LossCall]) -> list[tuple[int, int]]:
    """Return which lookups have the ids that which calls ask for at the same places.

    >>> ids, logits = torch.arange(16).view(4, 4), torch.zeros(16, 16)
    >>> answered([ids], [LossCall("cross_entropy", logits, ids.flatten())])
    [(0, 0)]
    >>> answered([ids], [LossCall("cross_entropy", logits, ids.flatten() + 1)])
    []
    """
    found = []
    for asked, call in enumerate(calls):
        if call.name not in _CLASSES or call.target.is_floating_point():
            continue
        wanted = call.target.reshape(-1)
        valid = wanted != call.options.get("ignore_index", LEFT_OUT)
        if int(valid.sum()) < _FEWEST or len(torch.unique(wanted[valid])) < _VARIED:
            continue
        for at, ids in enumerate(lookups):
            if ids.ndim != 2 or ids.numel() != wanted.numel() or call.target.shape not in (ids.shape, wanted.shape):
                continue
            if bool((ids.reshape(-1) == wanted)[valid].all()):
                found.append((at, asked))
    return found


def copies(apart: Tensor) -> list[Check]:
    """Judge how much outputs change, place by place, when what is in the middle of the sequence is changed.

    Args:
        apart: over the size of the outputs, ``[T]``.

    >>> copies(torch.tensor([0.0, 0.5, 0.1]))[0].passed, copies(torch.tensor([0.1, 0.5, 0.1]))
    (False, [])
    >>> copies(torch.tensor([0.0, 0.5, 0.0]))
    []
    """
    middle = len(apart) // 2
    before, there, behind = float(apart[:middle].max()), float(apart[middle]), float(apart[middle + 1 :].max())
    in_order = before <= sanity.RESOLUTION < behind
    return sanity.no_copy(before, there) if in_order else []


def _with_others(ids: Tensor, axis: int) -> Tensor:
    """Return ids whose middle place is that of the next sequence."""
    middle = torch.arange(ids.shape[axis], device=ids.device) == ids.shape[axis] // 2
    return torch.where(middle if axis == 1 else middle[:, None], ids.roll(1, 1 - axis), ids)


def _by_place(one: LossCall, two: LossCall, shape: torch.Size, axis: int) -> Tensor | None:
    """Return how much the output changes at each place, over its size."""
    if one.output.shape != two.output.shape or one.output.ndim < 2:
        return None
    outputs = [call.output.float().movedim(1, -1).reshape(*shape, -1) for call in (one, two)]
    change = (outputs[0] - outputs[1]).abs().amax((1 - axis, 2))
    return change / outputs[0].abs().max().clamp(min=1e-12)
