"""What weights tell about their own past: are they as a layer begins, and are all units of a layer the same?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.numerics.shards import is_sharded
from lightning_tricks.numerics.torch_internals import BATCH_NORM, CONVOLUTION, INSTANCE_NORM

_ERRORS = 5.0  # standard errors
_FEWEST = 8  # weights from which a variance says something
_NORMS: tuple[Any, ...] = (*BATCH_NORM, nn.LayerNorm, nn.GroupNorm, *INSTANCE_NORM)


def units_alike(weight: Tensor) -> bool:
    """Whether all rows of a weight are the same, and not all 0: its units compute the same, and keep to it for good.

    Units with the same weights get the same gradient. Rows of zeros are another matter: a head may begin so.

    Args:
        weight: of a layer ``[units, ...]``.

    >>> units_alike(torch.ones(3, 2)), units_alike(torch.eye(2)), units_alike(torch.zeros(3, 2))
    (True, False, False)
    """
    if weight.ndim < 2 or len(weight) < 2:
        return False
    rows = weight.detach().double().flatten(1)
    size = float(rows.abs().amax())
    return size > 0 and float((rows - rows[:1]).abs().amax()) <= 1e-6 * size


def as_initialised(module: nn.Module) -> bool:
    """Whether the weights of a layer are distributed as PyTorch's own initialisation makes them: it was never trained.

    False where that cannot be told: other layers, other initialisations, too few weights.

    Args:
        module: one layer, without the modules in it.

    >>> layer = nn.Linear(64, 64)
    >>> as_initialised(layer), as_initialised(nn.LayerNorm(4))
    (True, True)
    >>> _ = layer.weight.data.mul_(1.2)
    >>> as_initialised(layer)
    False
    """
    weight = getattr(module, "weight", None)
    if isinstance(module, _NORMS):
        gathered = getattr(module, "num_batches_tracked", None)
        scale, shift = ((None if t is None else t.detach()) for t in (module.weight, module.bias))
        begins = (scale is None or bool((scale == 1).all())) and (shift is None or bool((shift == 0).all()))
        return begins and (gathered is None or int(gathered) == 0)
    if isinstance(module, nn.Embedding):
        return _varies(module.weight.detach().double(), 1.0, 2.0)
    if isinstance(module, (nn.Linear, *CONVOLUTION)) and isinstance(weight, Tensor):
        return _uniform([weight], 1 / math.sqrt(weight[0].numel()))
    if isinstance(module, nn.RNNBase):
        return _uniform(list(module.parameters()), 1 / math.sqrt(module.hidden_size))
    return False


def trained_before(module: nn.Module) -> bool:
    """Whether no layer of a module is as new ones are; False where that cannot be told, as of shards.

    Args:
        module: a whole network.

    >>> trained_before(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
    False
    """
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Embedding, nn.RNNBase, *CONVOLUTION))]
    if not layers or any(is_sharded(p) for m in layers for p in m.parameters(recurse=False)):
        return False
    return not any(as_initialised(m) for m in layers)


def _uniform(weights: list[Tensor], bound: float) -> bool:
    values = torch.cat([w.detach().double().flatten() for w in weights])
    inside = bool((values.abs() <= bound * (1 + 1e-6)).all())
    return inside and _varies(values, bound**2 / 3, 0.8)


def _varies(values: Tensor, variance: float, excess: float) -> bool:
    """Whether the mean square is that variance, within its error.

    Args:
        values: of mean 0.
        variance: as it should be.
        excess: variance of a squared value over the square of the variance: 2 of a normal, 0.8 of a uniform one.
    """
    if values.numel() < _FEWEST:
        return False
    return abs(float(values.square().mean()) / variance - 1) <= _ERRORS * math.sqrt(excess / values.numel())
