"""Averages of the weights that are kept beside the module: what goes back has to take them along.

Lightning's WeightAveraging and StochasticWeightAveraging hold a model of their own; other callbacks and scripts hold a
dict or a list of tensors ("shadow" weights). One update after a NaN, such an average is NaN forever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Averages = dict[str, dict[str, Tensor]]


def averages(module: nn.Module, callbacks: Iterable[Any]) -> Averages:
    """Return the averages of a module's weights, by who keeps them: the tensors themselves, by name."""
    every = [p.shape for p in module.parameters()]
    trained = [p.shape for p in module.parameters() if p.requires_grad]
    own = {id(t) for t in (*module.parameters(), *module.buffers())}
    found: Averages = {}
    for i, owner in enumerate((module, *callbacks)):
        name = "module" if owner is module else f"{i - 1}.{type(owner).__name__}"
        for path, value in _held(owner, name):
            tensors = _tensors(value)
            shapes = [t.shape for t in tensors.values()]
            is_model = isinstance(value, nn.Module) and bool(shapes)
            if (is_model or (shapes and shapes in (every, trained))) and not own & {id(t) for t in tensors.values()}:
                found[path] = tensors
    return found


@torch.no_grad()
def put_averages(saved: Mapping[str, Mapping[str, Tensor]], module: nn.Module, callbacks: Iterable[Any]) -> None:
    """Put averages back, in place; one that has begun since stays as it is."""
    for path, tensors in averages(module, callbacks).items():
        for name, tensor in tensors.items():
            before = saved.get(path, {}).get(name)
            if before is not None and before.shape == tensor.shape:
                tensor.copy_(before)


def _held(owner: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, and what plain objects among it hold, by name."""
    for key, value in vars(owner).items():
        path = f"{name}.{key}"
        if isinstance(value, (nn.Module, Mapping, list, tuple)):
            yield path, value
        if isinstance(value, (Mapping, list, tuple)) and not key.startswith("_"):
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from ((f"{path}.{inner}", part) for inner, part in pairs if isinstance(part, nn.Module))
        elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)) and not key.startswith("_"):
            # (such as ``torch_ema.ExponentialMovingAverage``; a Trainer or an optimizer holds no list of this form)
            known = (
                (nn.Module, Mapping, list, tuple) if callable(getattr(value, "load_state_dict", None)) else nn.Module
            )
            yield from ((f"{path}.{inner}", part) for inner, part in vars(value).items() if isinstance(part, known))


def _tensors(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a model, a dict or a list by name; nothing where others stand among them."""
    if isinstance(value, nn.Module):
        return {**dict(value.named_parameters()), **dict(value.named_buffers())}
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    named = {str(key): tensor for key, tensor in pairs}
    return named if all(isinstance(t, Tensor) for t in named.values()) else {}
