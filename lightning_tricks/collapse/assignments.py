"""Assignments in the output of a module: whole numbers, masks, probabilities or logits, as rows and as counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.subset import subset
from lightning_tricks.numerics.trees import tree_leaves

MOST_ENTRIES = 2**20  # a whole number beyond is not the number of an entry


MOST_ROWS = 2048  # of one forward pass


MOST_NUMBERS = 2**22  # in the rows of one forward pass


ROWS_OF_A_SAMPLE = 32  # positions of one image or sequence say little about the others: so many count at most


_SUM_TOLERANCE = 0.02  # probabilities in bfloat16


_NEGATIVE_TOLERANCE = 1e-3  # straight-through estimates: hard - soft.detach() + soft


def assignments_of(output: object) -> Tensor | None:
    """Return the tensor of assignments in a module's output; None when it holds none.

    Whole numbers come first: a quantiser returns them beside its floating-point vectors. Of floating-point tensors the
    first one with rows of at least two numbers is taken.
    """
    deeper = [x for leaf in tree_leaves(output) for x in (leaf.values() if isinstance(leaf, dict) else [leaf])]
    tensors = [local(t.detach()) for t in deeper if isinstance(t, Tensor) and not t.is_complex()]
    whole = [t for t in tensors if not t.is_floating_point() and t.ndim > int(t.dtype == torch.bool)]
    rows = [t for t in tensors if t.is_floating_point() and t.ndim > 1 and t.shape[-1] > 1]
    return next(iter([*whole, *rows]), None)


def is_mask(numbers: Tensor) -> bool:
    """Whether whole numbers are one-hot rows ``[..., K]`` rather than the numbers of entries; one host read.

    Each row has at most one 1, and at least half of them have one: tokens that a router dropped are rows of zeros.

    >>> is_mask(torch.nn.functional.one_hot(torch.tensor([3, 0]), 5)), is_mask(torch.tensor([[3, 0, 1], [4, 0, 1]]))
    (True, False)
    """
    if numbers.dtype == torch.bool:
        return True
    if numbers.ndim < 2 or numbers.shape[-1] < 3 or not numbers.numel():
        return False
    rows = numbers.reshape(-1, numbers.shape[-1])
    marked = rows.sum(1)
    binary = ((rows == 0) | (rows == 1)).all() & (marked <= 1).all()
    return bool(binary & (marked.float().mean() >= 0.5))


def rows_of_mask(mask: Tensor) -> Tensor:
    """Return the rows of a mask as probabilities; a row without any mark as ``-inf``, which is left out.

    >>> rows_of_mask(torch.tensor([[True, True], [False, False]]))
    tensor([[0.5000, 0.5000],
            [  -inf,   -inf]])
    """
    marks = mask.reshape(-1, mask.shape[-1]).float()
    total = marks.sum(1, keepdim=True)
    return torch.where(total > 0, marks / total.clamp(min=1), -math.inf)


def kept_rows(rows: Tensor) -> Tensor:
    """Return at most so many rows ``[n, K]`` or numbers ``[n]`` as are looked at in one forward pass, spread evenly."""
    wide = rows.shape[1] if rows.ndim > 1 else 1
    return subset(rows, min(MOST_ROWS, max(64, MOST_NUMBERS // wide)))


def as_probabilities(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as probabilities, and whether they were: all of them >= 0 with a sum of 1. No host read.

    Args:
        rows: ``[n, K]``, probabilities or logits; float32.

    Returns:
        ``[n, K]`` and a bool, 0-d, on the device.

    Example:
        >>> as_probabilities(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))[0]
        tensor([[0.5000, 0.5000],
                [0.7311, 0.2689]])
        >>> as_probabilities(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))[1]
        tensor(True)
    """
    total = rows.sum(-1, keepdim=True)
    normal = (rows >= -_NEGATIVE_TOLERANCE).all() & ((total - 1).abs() <= _SUM_TOLERANCE).all()
    positive = rows.clamp(min=0.0)
    given = positive / positive.sum(-1, keepdim=True).clamp(min=0.5)
    return torch.where(normal, given, rows.softmax(-1)), normal


def votes(rows: Tensor) -> Tensor:
    """Return which entry each row chooses, as shares ``[n, K]``; entries that are exactly equal share the vote.

    A router or a head whose weights begin at zero gives equal logits: it has not chosen anything yet.

    >>> votes(torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
    tensor([[0.0000, 1.0000],
            [0.5000, 0.5000]])
    """
    best = (rows == rows.amax(-1, keepdim=True)).to(rows.dtype)
    return best / best.sum(-1, keepdim=True).clamp(min=1)


def counted_entries(numbers: Tensor, entries: int) -> Tensor:
    """Return how often each entry occurs ``[entries]``; numbers that are negative or too large are left out."""
    flat = numbers.reshape(-1).to(torch.int64)
    valid = (flat >= 0) & (flat < entries)
    zeros = torch.zeros(entries, device=flat.device)
    return zeros.scatter_add(0, flat.clamp(0, entries - 1), valid.float())
