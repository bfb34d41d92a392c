"""What modules carry from batch to batch beside their weights: the hidden state of a recurrent network, a running mean.

Plain attributes, which no ``state_dict`` holds. Where one became NaN with the failure, weights that were put back would
be NaN again after the next batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.numerics.trees import tree_leaves, tree_map

_HOST = torch.device("cpu")
_MOST_NUMBERS = 4_000_000  # of an attribute: larger ones are data, and are not copied


def carried(module: nn.Module) -> dict[str, Any]:
    """Return copies of what modules carry, in the host's memory, by name: tensors, floats, and containers of them.

    >>> net = nn.Identity()
    >>> net.hidden, net.name = (torch.zeros(1), torch.ones(1)), "small"
    >>> carried(net)
    {'hidden': (tensor([0.]), tensor([1.]))}
    """
    return {path: tree_map(_copy, value) for _, _, path, value in _attributes(module) if _finite(value)}


def mend_carried(saved: Mapping[str, Any], module: nn.Module) -> None:
    """Put back what holds NaN or inf now and did not when it was saved; the rest goes on as it is."""
    for owner, name, path, value in list(_attributes(module)):
        if path in saved and not _finite(value):
            devices = [t.device for t in tree_leaves(value) if isinstance(t, Tensor)]
            setattr(owner, name, tree_map(partial(_copy, device=devices[0] if devices else _HOST), saved[path]))


def _attributes(module: nn.Module) -> Iterator[tuple[nn.Module, str, str, Any]]:
    """Yield owner, name, path and value of each attribute that consists of floats and tensors."""
    for prefix, owner in module.named_modules():
        for name, value in vars(owner).items():
            # (torch's and Lightning's own begin with an underscore; parameters and buffers lie in dicts among these)
            if not name.startswith("_") and _is_plain(value):
                yield owner, name, f"{prefix}.{name}".removeprefix("."), value


def _is_plain(value: Any) -> bool:
    leaves = tree_leaves(value) if isinstance(value, (Tensor, float, list, tuple, dict)) else []
    numbers = sum(x.numel() for x in leaves if isinstance(x, Tensor))
    return bool(leaves) and numbers <= _MOST_NUMBERS and all(_is_number(x) for x in leaves)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, float) or (type(leaf) is Tensor and leaf.is_floating_point() and not leaf.is_sparse)


def _finite(value: Any) -> bool:
    return all(bool(x.isfinite().all()) if isinstance(x, Tensor) else math.isfinite(x) for x in tree_leaves(value))


def _copy(leaf: Any, device: torch.device = _HOST) -> Any:
    return leaf.detach().to(device, copy=True) if isinstance(leaf, Tensor) else leaf
