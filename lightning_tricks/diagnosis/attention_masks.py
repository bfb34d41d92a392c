"""Masks of attention that cannot be meant: only padding is seen, or numbers of 0 and 1 that are added hide nothing.

What is padding is told by the data: places at one end of each row, of another number in each, that hold one and the
same value while the rest varies. Attention that sees these only gets nothing but their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_tricks.diagnosis.attention_calls import AttentionMask, AttentionMasks
from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.step_calls import Lookups

_VARIED = 3  # different values of a sequence without its padding, at least


def masks(exam: Examination) -> list[Check]:
    """Look at the masks of attention in the first step, beside ids that it looks up and tensors of the batch."""
    found = None
    exam.dry_run.restart()
    if not exam.compiled:
        with AttentionMasks() as seen, Lookups() as lookups, exam.dry_run.looking():
            exam.dry_run.output(exam.batch)
        found = misread(seen.found, [*lookups.found, *tensors_of(exam.batch)])
    if not exam.dry_run.steps.anywhere(found is not None):
        return []
    return [found or Check("inputs matter", False, "a mask of attention is misread, on another process")]


def misread(found: Sequence[AttentionMask], sources: Sequence[Tensor]) -> Check | None:
    """Return what is wrong with the first mask that is; None where nothing is.

    Args:
        found: the masks.
        sources: what sequences may be made of: ids ``[n, T]`` or values ``[n, T, ...]``, also with time first.

    >>> ids = torch.tensor([[5, 3, 0, 0], [4, 6, 7, 0]])
    >>> wrong, right = (AttentionMask("softmax", seen) for seen in (ids == 0, ids != 0))
    >>> misread([wrong], [ids]).passed, misread([right], [ids])
    (False, None)
    """
    for mask in found:
        if mask.added is not None:
            check = _added(mask.where, mask.added, sources)
        elif any(padding_only(seen, ids) for seen, ids in _pairs(mask.seen, sources)):
            seen = f"{mask.where}: attention sees only what is the same in all places, and nothing of what varies"
            fix = (
                "the mask of padding is the wrong way round: True hides in key_padding_mask and in masked_fill, "
                "and shows in scaled_dot_product_attention"
            )
            check = Check("inputs matter", False, seen, fix)
        else:
            check = None
        if check is not None:
            return check
    return None


def padding_only(chosen: Tensor, ids: Tensor) -> bool:
    """Whether chosen places hold one value at an end of each row, of another number in each, and the rest varies.

    Args:
        chosen: ``[n, T]``, booleans.
        ids: what is there, ``[n, T]``.

    >>> ids = torch.tensor([[5, 3, 0, 0], [4, 6, 7, 0]])
    >>> padding_only(ids == 0, ids), padding_only(ids != 0, ids), padding_only(ids == 5, ids)
    (True, False, False)
    """
    count = chosen.sum(1)
    if int(count.max()) < 2 or bool((count == count[0]).all()) or bool(chosen.all()):
        return False
    place = torch.arange(chosen.shape[1], device=chosen.device)
    at_end = bool((chosen == (place >= chosen.shape[1] - count[:, None])).all())
    at_start = bool((chosen == (place < count[:, None])).all())
    alike = bool((ids[chosen] == ids[chosen][0]).all())
    return (at_end or at_start) and alike and len(torch.unique(ids[~chosen])) >= _VARIED


def _added(where: str, ones: Tensor, sources: Sequence[Tensor]) -> Check | None:
    """Numbers are added to scores: 1 and 0 differ by a factor of e, where minus infinity hides."""
    length = ones.shape[-1]
    if ones.shape[-2] == length:
        square = torch.ones(length, length, dtype=torch.bool, device=ones.device)
        causal = (square.tril(), square.tril(-1), square.triu(), square.triu(1))
        if any(bool((ones == form).all()) for form in causal):
            seen = f"{where} holds numbers of 0 and 1 in the form of a causal mask, which are added and hide nothing"
            return Check("no look into the future", False, seen, "booleans, or 0 and float('-inf'); is_causal=True")
    by_key = ones.any(1)
    for chosen, ids in [*_pairs(by_key, sources), *_pairs(~by_key, sources)]:
        if padding_only(chosen, ids):
            seen = f"{where} holds numbers of 0 and 1 in the place of padding, which are added and hide nothing"
            return Check("inputs matter", False, seen, "booleans: mask.bool(); or 0 and float('-inf')")
    return None


def _pairs(seen: Tensor, sources: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return a mask of keys beside each source of as many places, both as ``[n, T]``.

    An element may have been put before the sequence, as a class token.
    """
    found = []
    rows, length = seen.shape
    for source in [s for s in sources if s.ndim > 1]:
        for each in (source, source.transpose(0, 1)):
            n, places = each.shape[:2]
            if n < 2 or rows % n or length - places not in (0, 1) or places < _VARIED:
                continue
            found.append((seen.reshape(n, rows // n, length).any(1)[:, length - places :], _numbered(each)))
    return found


def _numbered(values: Tensor) -> Tensor:
    """Return a number for each different element of ``[n, T, ...]``, as ``[n, T]``."""
    n, places = values.shape[:2]
    if values.ndim == 2:
        return values
    numbers: Tensor = torch.unique(values.reshape(n * places, -1), dim=0, return_inverse=True)[1]
    return numbers.reshape(n, places)
