"""Norms of lists of tensors, read once, in float32, without a host read.

All functions are pure. ``P`` is the number of tensors, ``k`` the number of parts (groups) they fall into.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import Tensor

from lightning_tricks.measure.subset import subset


def tensor_norms(tensors: Sequence[Tensor], norm_type: float = 2.0, *, double: bool | None = None) -> Tensor:
    """Return the p-norm of each tensor: ``norms[i] = (sum |tensors[i]|^p)^(1/p)``, for inf the largest value.

    The sum runs in float32 (in float64 for float64): the L2 norm of float16 gradients would overflow at 65504.
    Tensors that lie on several devices are gathered on the first one's.

    Args:
        tensors: ``P`` dense real tensors of any shape; empty ones have norm 0.
        norm_type: p > 0, or ``inf``.
        double: whether a tensor is float64, where the caller knows; None to look.

    Returns:
        Float32 tensor ``[P]`` on the device of ``tensors[0]``.

    Example:
        >>> tensor_norms([torch.tensor([3.0, 4.0]), torch.ones(2, 2)])
        tensor([5., 2.])
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.float32)
    if double is None:
        double = any(t.dtype == torch.float64 for t in tensors)
    # torch's inf norm of an empty tensor raises; a sum over nothing is 0
    safe = [t if t.numel() else t.new_zeros(1) for t in tensors] if norm_type == torch.inf else list(tensors)
    norms = list(torch._foreach_norm(safe, norm_type, dtype=torch.float64 if double else torch.float32))
    try:
        return torch.stack(norms).float()
    except RuntimeError:  # several devices, which asking each of hundreds of tensors every step would cost more
        return torch.stack([n.to(norms[0].device, non_blocking=True) for n in norms]).float()


class NormPlan:
    """How to read the norms of the same tensors, step after step, with few operations.

    On a CPU, an operation on a bias of 64 numbers costs as much as one on 10,000. Small tensors of one shape (most
    biases and norm weights of a network) are therefore stacked and read together; the copy is at most ``limit`` numbers
    each. On a GPU torch's own multi-tensor kernel does better, and the plan is to use it for all.

    Args:
        tensors: an example of what will be read; shapes, dtypes and devices must stay.
        limit: largest number of elements of a tensor that is stacked.

    Example:
        >>> tensors = [torch.full((4,), float(i)) for i in range(5)] + [torch.ones(3, 3)]
        >>> NormPlan(tensors).norms(tensors)
        tensor([0., 2., 4., 6., 8., 3.])
    """

    def __init__(self, tensors: Sequence[Tensor], limit: int = 1024) -> None:
        alike: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
        for i, t in enumerate(tensors):
            if t.device.type == "cpu" and 0 < t.numel() <= limit:
                alike.setdefault((t.shape, t.dtype), []).append(i)
        stacks = [members for members in alike.values() if len(members) >= 4]
        stacked = {i for members in stacks for i in members}
        rest = [i for i in range(len(tensors)) if i not in stacked]
        read = [i for members in stacks for i in members] + rest
        self._stacks = [itemgetter(*members) for members in stacks]
        self._rest = rest
        self._double = any(t.dtype == torch.float64 for t in tensors)
        self._places = torch.empty(len(read), dtype=torch.int64)
        self._places[torch.tensor(read, dtype=torch.int64)] = torch.arange(len(read))

    def norms(self, tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
        """Return the same as ``tensor_norms``, ``[P]`` float32."""
        if not self._stacks:
            return tensor_norms(tensors, norm_type, double=self._double)
        parts = [_row_norms(torch.stack(members(tensors)), norm_type) for members in self._stacks]
        if self._rest:
            rest = [tensors[i] for i in self._rest]
            parts.append(tensor_norms(rest, norm_type, double=self._double))
        return torch.cat(parts).index_select(0, self._places)


def _row_norms(rows: Tensor, norm_type: float) -> Tensor:
    rows = rows if rows.ndim == 2 else rows.reshape(len(rows), -1)
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    norms: Tensor = torch.linalg.vector_norm(rows, norm_type, dim=1, dtype=dtype)
    return norms.float()


def total_norm(norms: Tensor, norm_type: float = 2.0) -> Tensor:
    """Return the norm of the concatenation: ``(sum_i norms[i]^p)^(1/p)``.

    Args:
        norms: ``[P]``, norms of the parts.
        norm_type: the same p as theirs.

    Returns:
        0-d tensor.

    Example:
        >>> total_norm(torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
    total: Tensor = torch.linalg.vector_norm(norms, norm_type)
    return total


def group_norms(norms: Tensor, group_of: Tensor, num_groups: int, norm_type: float = 2.0) -> Tensor:
    """Return the norm of each group: ``out[j] = (sum_{i: group_of[i]=j} norms[i]^p)^(1/p)``.

    The largest norm of a group is divided out first, so that squares of large norms cannot overflow.

    Args:
        norms: ``[P]``, float32.
        group_of: ``[P]``, int64, the group of each tensor, in ``0..num_groups-1``.
        num_groups: ``k``.
        norm_type: the same p as theirs.

    Returns:
        ``[k]``; 0 for an empty group.

    Example:
        >>> group_norms(torch.tensor([3.0, 4.0, 7.0]), torch.tensor([0, 0, 1]), 2)
        tensor([5., 7.])
    """
    largest = norms.new_zeros(num_groups).scatter_reduce(0, group_of, norms, "amax")
    if norm_type == torch.inf:
        return largest
    usable = largest.isfinite() & (largest > 0)
    unit = torch.where(usable, largest, torch.ones_like(largest))
    powers = (norms / unit[group_of]).pow(norm_type)
    sums = norms.new_zeros(num_groups).index_add(0, group_of, powers)
    return sums.pow(1.0 / norm_type) * unit


def nonfinite(norms: Tensor) -> Tensor:
    """Return which tensors hold NaN or inf (or overflow float32 in their norm), ``[P]`` bool.

    Example:
        >>> nonfinite(torch.tensor([1.0, float("nan"), float("inf")]))
        tensor([False,  True,  True])
    """
    return ~torch.isfinite(norms)


def unit_norms(tensor: Tensor) -> Tensor:
    """Return the L2 norm of each output unit, shaped to broadcast against ``tensor``.

    A unit is one slice along dimension 0 (a row of a linear layer, a filter of a convolution). Tensors with
    fewer than two dimensions (biases, norm weights) are one unit. Reference: Brock et al., arXiv:2102.06171, §4.1.

    Args:
        tensor: any shape.

    Returns:
        Float32, shape ``[n, 1, ..., 1]`` for ``ndim >= 2``, else 0-d.

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[5.],
                [2.]])
    """
    dims = tuple(range(1, tensor.ndim))
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    norms: Tensor = torch.linalg.vector_norm(tensor, 2, dim=dims or None, keepdim=bool(dims), dtype=dtype)
    return norms.float()


def bounded_sample(tensor: Tensor, limit: int = 65536) -> Tensor:
    """Return at most ``limit`` elements spread evenly over ``tensor``: itself as a flat view, or a copy of a part.

    Used where a copy of all weights would double the memory (update ratio, histograms). Of a matrix, elements of all
    rows and of all columns are taken about equally often.

    Example:
        >>> bounded_sample(torch.arange(10), limit=4)
        tensor([0, 7, 4, 1])
    """
    return subset(tensor.detach().reshape(-1), limit)
