"""What weights tell about their own past: are they as layers begin, and are all units of a layer the same?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.numerics.shards import is_sharded
from lightning_tricks.numerics.torch_internals import BATCH_NORM, CONVOLUTION, INSTANCE_NORM

_ERRORS = 5.0  # standard errors
_FEWEST = 8  # weights from which a variance says something
_FEWEST_DRAWN = 4096  # weights from which it tells one of several usual variances from any other
_MOST_OF = 0.9  # of the layers
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


def parameters_as_new(modules: Iterable[nn.Module]) -> set[int]:
    """Return the ids of the parameters of those modules that are as they were initialised.

    >>> layer = nn.Linear(64, 64)
    >>> parameters_as_new([layer, nn.ReLU()]) == {id(layer.weight), id(layer.bias)}
    True
    """
    return {id(p) for m in modules if as_initialised(m) for p in m.parameters(recurse=False)}


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


def as_often_drawn(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the layers whose weights are normal numbers of a usual variance, where that holds for nearly all layers.

    So torchvision, timm and transformers begin: with a variance of 2 over the inputs or the outputs of a unit, of 1
    over its inputs, or with a standard deviation of 0.02. Of one layer alone, training may have made it so by chance.

    Args:
        modules: linear and convolutional layers; small ones are left out.

    Reference: He et al., arXiv:1502.01852; Devlin et al., arXiv:1810.04805.

    >>> layers = [nn.Linear(64, 64) for _ in range(4)]
    >>> for layer in layers:
    ...     _ = nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    >>> len(as_often_drawn(layers))
    4
    >>> _ = [layer.weight.data.mul_(1.2) for layer in layers]
    >>> as_often_drawn(layers)
    []
    """
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTION)
    large = [m for m in modules if isinstance(m, kinds) and m.weight.numel() >= _FEWEST_DRAWN]  # type: ignore[operator]
    drawn = [m for m in large if _usual_normal(m.weight)]  # type: ignore[arg-type]
    return drawn if large and len(drawn) >= _MOST_OF * len(large) else []


def _usual_normal(weight: Tensor) -> bool:
    values = weight.detach().double()
    squares = values.square()
    inputs = weight[0].numel()
    outputs = len(weight) * weight[0, 0].numel()
    variances = (2 / inputs, 2 / outputs, 1 / inputs, 2 / (inputs + outputs), 0.02**2)
    # (the fourth moment of a normal distribution has a variance of 24 over the number of values)
    peak = float(squares.square().mean() / squares.mean().square().clamp(min=1e-300)) - 3
    normal = abs(peak) <= _ERRORS * math.sqrt(24 / values.numel())
    return normal and any(_varies(values, variance, 2.0) for variance in variances)


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
