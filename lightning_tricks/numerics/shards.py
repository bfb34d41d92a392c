"""Local value -> value of the whole model, for parameters that are sharded over processes (FSDP2, tensor parallel).

Under DDP and on one device nothing is sharded and nothing is communicated: gradients are equal on all ranks already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

_PIECE = 25 * 2**20  # bytes; the size of DDP's buckets (bucket_cap_mb=25)


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor, of which this rank may hold a part only."""
    # (told by its attributes: builds of torch without distributed packages have no DTensor to import)
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """Return the part of ``tensor`` that lies on this rank (all of it where nothing is sharded)."""
    held: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return held


class Shards:
    """Which of ``P`` tensors are split over which process groups; one all-reduce per group for all of them.

    A replicated dimension of a device mesh is not summed: each rank there holds the same numbers.

    Args:
        tensors: the parameters, in the order of the vectors to come.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        members: dict[int, tuple[Any, list[int]]] = {}
        for i, tensor in enumerate(tensors):
            if not is_sharded(tensor):
                continue
            mesh = tensor.device_mesh  # type: ignore[attr-defined]
            for dim, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
                if placement.is_shard() and mesh.size(dim) > 1:
                    group = mesh.get_group(dim)
                    # A tensor that is split over two dimensions of a mesh is in two groups; their reductions follow one
                    # another.
                    members.setdefault(id(group), (group, []))[1].append(i)
        self._members = list(members.values())
        self._size = len(tensors)

    def __bool__(self) -> bool:
        return bool(self._members)

    def norms(self, local_norms: Tensor, norm_type: float) -> Tensor:
        """Return the norms of the whole tensors from those of this rank's parts. All ranks must call.

        The powers that are summed are float64: squares of float32 norms would overflow beyond 1e19.
        """
        if not self._members:
            return local_norms
        largest_only = norm_type == torch.inf
        # (a copy, because all_reduce writes in place and the norms belong to the caller)
        wide = local_norms.to(torch.float64, copy=True)
        powers = wide if largest_only else wide.pow(norm_type)
        for group, indices in self._members:
            operation = dist.ReduceOp.MAX if largest_only else dist.ReduceOp.SUM
            if len(indices) == self._size:
                dist.all_reduce(powers, op=operation, group=group)
                continue
            index = torch.tensor(indices, device=powers.device)
            part = powers[index]
            dist.all_reduce(part, op=operation, group=group)
            powers = powers.index_copy(0, index, part)
        return (powers if largest_only else powers.pow(1.0 / norm_type)).to(local_norms.dtype)


def reduced(strategy: Any, tensor: Tensor, operation: Literal["sum", "mean", "max"]) -> Tensor:
    """Return the sum, mean or maximum over all processes, by one all-reduce; alone the tensor. All ranks must call.

    Lightning's own ``strategy.reduce`` puts a barrier before it, at which the host waits for the device.

    Args:
        strategy: the Trainer's; asked where torch.distributed is not what it communicates by (XLA).
        tensor: of the same shape on all ranks; it is left as it is.
    """
    if not (dist.is_available() and dist.is_initialized()):
        elsewhere: Tensor = strategy.reduce(tensor, reduce_op=operation)
        return elsewhere
    if dist.get_world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total, op=dist.ReduceOp.MAX if operation == "max" else dist.ReduceOp.SUM)
    return total / dist.get_world_size() if operation == "mean" else total


@torch.no_grad()
def average(gradients: Sequence[Tensor]) -> None:
    """Replace tensors by their means over all processes, in pieces of about 25 MB. All ranks must call."""
    world, piece, size = dist.get_world_size(), list[Tensor](), 0
    for i, gradient in enumerate(gradients):
        piece.append(gradient)
        size += gradient.nbytes
        last = i + 1 == len(gradients)
        # (``cat`` would promote mixed dtypes, and the mean would be rounded when it is copied back)
        if last or size > _PIECE or gradients[i + 1].dtype != gradient.dtype:
            flat = torch.cat([g.reshape(-1) for g in piece])
            dist.all_reduce(flat)
            flat /= world
            for g, mean in zip(piece, torch.split(flat, [g.numel() for g in piece]), strict=True):
                g.copy_(mean.view_as(g))
            piece, size = [], 0


def on_any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Return which flags are set on at least one process. All ranks must call."""
    mask = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(mask, op=dist.ReduceOp.MAX)
    # One host read: which collectives follow depends on the answer, so that all ranks need it before they go on.
    return [bool(flag) for flag in mask.tolist()]
