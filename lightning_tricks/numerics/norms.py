"""Norms of lists of tensors, read once, without waiting for a device, and without overflow or underflow.

The square of a float32 number beyond 1e19 is inf, and of one below 1e-23 it is 0. On an accelerator, powers are
therefore summed in float64: torch's multi-tensor kernel converts on the fly. On a CPU that takes ten times as long, but
the host can look at the result: the sums run in float32, and only those that may have lost something run again in
float64. Norms of float64 tensors are float64, all others float32.

All functions are pure. ``P`` is the number of tensors, ``k`` the number of parts (groups) they fall into.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter

import torch
from torch import Tensor

from lightning_tricks.numerics.torch_internals import foreach_norm

_MOST_ELEMENTS = 2.0**32  # of a tensor; what underflows in each of them may add up


def tensor_norms(tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    """Return the p-norm of each tensor: ``norms[i] = (sum |tensors[i]|^p)^(1/p)``, for inf the largest value.

    Of complex tensors, ``|z|`` is the modulus, as for ``torch.nn.utils.clip_grad_norm_``. Tensors that lie on several
    devices are gathered on the first one's.

    Args:
        tensors: ``P`` dense tensors of any shape; empty ones have norm 0.
        norm_type: p > 0, or ``inf``.

    Returns:
        ``[P]`` on the device of ``tensors[0]``: float64 where a tensor is float64 or complex128, else float32.

    Example:
        >>> tensor_norms([torch.tensor([3.0, 4.0]), torch.ones(2, 2)])
        tensor([5., 2.])
        >>> tensor_norms([torch.full((4,), 1e30), torch.full((4,), 1e-30)])
        tensor([2.0000e+30, 2.0000e-30])
    """
    real = [_real(t, norm_type) if t.is_complex() else t for t in tensors]
    return _norms(real, norm_type, double=any(t.dtype == torch.float64 for t in real))


def _norms(tensors: Sequence[Tensor], norm_type: float, *, double: bool) -> Tensor:
    """Return the same of real tensors, where it is known whether one is float64."""
    if not tensors:
        return torch.zeros(0)
    if double:
        return _read(tensors, norm_type, torch.float64)
    if _readable(tensors[0]):
        return _mended(_read(tensors, norm_type, torch.float32), tensors, norm_type)
    wide = torch.float64 if _has_float64(tensors[0].device.type) else torch.float32
    return _read(tensors, norm_type, wide).float()


def _read(tensors: Sequence[Tensor], norm_type: float, dtype: torch.dtype) -> Tensor:
    if norm_type == torch.inf and _readable(tensors[0]):
        norms = [largest_magnitude(t).to(dtype) for t in tensors]
    else:
        # torch's inf norm of an empty tensor raises; a sum over nothing is 0
        safe = [t if t.numel() else t.new_zeros(1) for t in tensors] if norm_type == torch.inf else list(tensors)
        norms = foreach_norm(safe, norm_type, dtype)
    try:
        return torch.stack(norms)
    except RuntimeError:  # several devices, which asking each of hundreds of tensors every step would cost more
        first = norms[0].device
        return torch.stack([n.to(first, non_blocking=first.type != "cpu") for n in norms])


def _mended(norms: Tensor, tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    """Return float32 norms, those again in float64 whose sum may have overflowed, or lost what is small. On a CPU."""
    low, values = lowest_safe(norm_type, norms.dtype), norms.tolist()
    if low <= min(values) and max(values) < math.inf:
        return norms
    # (float64 does not change a NaN)
    doubtful = [i for i, n in enumerate(values) if n < low or n == math.inf]
    doubtful = [i for i in doubtful if tensors[i].numel() and not _all_zero(tensors[i])]
    if not doubtful:
        return norms
    again = _read([tensors[i] for i in doubtful], norm_type, torch.float64)
    return norms.index_copy(0, torch.tensor(doubtful), again.to(norms.dtype))


def _all_zero(tensor: Tensor) -> bool:
    # frequent (dead units, unused heads), and told in a tenth of the time of a norm in float64
    low, high = torch.aminmax(tensor)
    return not (low.tolist() or high.tolist())


def _readable(tensor: Tensor) -> bool:
    """Whether the host may look at a tensor's norm without waiting for a device."""
    return tensor.is_cpu


@lru_cache(maxsize=16)
def _has_float64(device_type: str) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device_type)
    except (TypeError, RuntimeError):  # Apple's GPUs have none; there norms reach from 1e-18 to 1e18
        return False
    return True


@lru_cache(maxsize=64)
def lowest_safe(norm_type: float, dtype: torch.dtype) -> float:
    """Return the smallest norm of which no digit can be missing because powers of small elements became 0."""
    if norm_type == torch.inf:
        return 0.0
    limits = torch.finfo(dtype)
    # A power below smallest_normal loses digits. If all N = _MOST_ELEMENTS elements do, less than N * smallest_normal
    # is missing from their sum, which is eps of the sum that this bound asks for.
    return float((limits.smallest_normal / limits.eps * _MOST_ELEMENTS) ** (1.0 / norm_type))


def _real(tensor: Tensor, norm_type: float) -> Tensor:
    """Return real numbers that have the p-norm of a complex tensor; for p = 2 they share its memory."""
    # (``view_as_real`` refuses a tensor whose conjugation is only marked, hence ``resolve_conj``)
    return torch.view_as_real(tensor.resolve_conj()) if norm_type == 2.0 else tensor.abs()


def largest_magnitude(tensor: Tensor) -> Tensor:
    """Return the largest magnitude of a real tensor, 0-d; 0 for an empty one, NaN where an element is."""
    if not tensor.numel():
        return tensor.new_zeros(())
    if not tensor.is_cpu:
        return torch.linalg.vector_norm(tensor, torch.inf)  # type: ignore[no-any-return]
    # torch's inf norm takes 25 times as long on a CPU
    low, high = torch.aminmax(tensor)
    return torch.maximum(-low, high)


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
            if t.device.type == "cpu" and 0 < t.numel() <= limit and not t.is_complex():
                alike.setdefault((t.shape, t.dtype), []).append(i)
        stacks = [members for members in alike.values() if len(members) >= 4]
        stacked = {i for members in stacks for i in members}
        rest = [i for i in range(len(tensors)) if i not in stacked]
        read = [i for members in stacks for i in members] + rest
        self._stacks = [itemgetter(*members) for members in stacks]
        self._rest = rest
        self._complex = [i for i, t in enumerate(tensors) if t.is_complex()]
        self._double = any(t.dtype in (torch.float64, torch.complex128) for t in tensors)
        # Norms are read stack by stack, then the rest. The inverse permutation brings them back into the order of
        # ``tensors``.
        self._places = torch.empty(len(read), dtype=torch.int64)
        self._places[torch.tensor(read, dtype=torch.int64)] = torch.arange(len(read))

    def norms(self, tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
        """Return the same as ``tensor_norms``, ``[P]``."""
        if self._complex:
            tensors = list(tensors)
            for i in self._complex:
                tensors[i] = _real(tensors[i], norm_type)
        if not self._stacks:
            return _norms(tensors, norm_type, double=self._double)
        dtype = torch.float64 if self._double or not _readable(tensors[0]) else torch.float32
        rows = [torch.stack(members(tensors)) for members in self._stacks]
        parts = [_row_norms(r if r.ndim == 2 else r.reshape(len(r), -1), norm_type, dtype) for r in rows]
        if self._rest:
            parts.append(_read([tensors[i] for i in self._rest], norm_type, dtype))
        norms = torch.cat(parts).index_select(0, self._places)
        if self._double:
            return norms
        return _mended(norms, tensors, norm_type) if dtype == torch.float32 else norms.float()


def _row_norms(rows: Tensor, norm_type: float, dtype: torch.dtype) -> Tensor:
    dims = 1 if rows.ndim == 2 else tuple(range(1, rows.ndim))
    norms: Tensor = torch.linalg.vector_norm(rows, norm_type, dim=dims, dtype=dtype)
    return norms


def total_norm(norms: Tensor, norm_type: float = 2.0) -> Tensor:
    """Return the norm of the concatenation: ``(sum_i norms[i]^p)^(1/p)``.

    The largest norm is divided out before powers are taken, so that they neither overflow nor vanish; on a CPU only
    where they did.

    Args:
        norms: ``[P]``, norms of the parts.
        norm_type: the same p as theirs.

    Returns:
        0-d tensor of the dtype of ``norms``.

    Example:
        >>> total_norm(torch.tensor([3.0, 4.0]))
        tensor(5.)
        >>> total_norm(torch.tensor([3e30, 4e30]))
        tensor(5.0000e+30)
    """
    if not norms.numel():
        return norms.new_zeros(())
    total: Tensor
    if norm_type == torch.inf or _readable(norms):
        total = torch.linalg.vector_norm(norms, norm_type)
        if norm_type == torch.inf or lowest_safe(norm_type, norms.dtype) <= total.tolist() < math.inf:  # type: ignore[operator]
            return total
    limits = torch.finfo(norms.dtype)
    # (a largest norm of 0 must not divide; inf and NaN stay what they are)
    unit = norms.amax().clamp(min=limits.smallest_normal, max=limits.max)
    total = torch.linalg.vector_norm(norms / unit, norm_type)
    return total * unit


def group_norms(norms: Tensor, group_of: Tensor, num_groups: int, norm_type: float = 2.0) -> Tensor:
    """Return the norm of each group: ``out[j] = (sum_{i: group_of[i]=j} norms[i]^p)^(1/p)``.

    The largest norm of a group is divided out first, so that squares of large norms cannot overflow.

    Args:
        norms: ``[P]``.
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
    # Dividing by a largest norm of 0 would give NaN, and so would inf / inf, which hides that the norm overflowed.
    usable = largest.isfinite() & (largest > 0)
    unit = torch.where(usable, largest, torch.ones_like(largest))
    powers = (norms / unit[group_of]).pow(norm_type)
    sums = norms.new_zeros(num_groups).index_add(0, group_of, powers)
    return sums.pow(1.0 / norm_type) * unit


def nonfinite(norms: Tensor) -> Tensor:
    """Return which tensors hold NaN or inf (or have a norm beyond the largest number of its dtype), ``[P]`` bool.

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
        tensor: any shape, real or complex.

    Returns:
        Shape ``[n, 1, ..., 1]`` for ``ndim >= 2``, else 0-d; float64 for float64 and complex128, else float32.

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[5.],
                [2.]])
    """
    units = tensor if tensor.ndim > 1 else tensor.reshape(1, tensor.numel())
    units = _real(units, 2.0) if units.is_complex() else units
    double, readable = units.dtype == torch.float64, _readable(units)
    wide = double or (not readable and _has_float64(units.device.type))
    norms = _row_norms(units, 2.0, torch.float64 if wide else torch.float32)
    if not double:
        norms = _mended_rows(norms, units) if readable else norms.float()
    return norms.reshape(len(units), *[1] * (tensor.ndim - 1)) if tensor.ndim > 1 else norms.reshape(())


def _mended_rows(norms: Tensor, rows: Tensor) -> Tensor:
    low = lowest_safe(2.0, norms.dtype)
    doubtful = ((norms < low) | (norms == math.inf)).nonzero().flatten()
    if not doubtful.numel():
        return norms
    again = _row_norms(rows[doubtful], 2.0, torch.float64)
    return norms.index_copy(0, doubtful, again.to(norms.dtype))
