"""Random states and gradients as plain values: what a checkpoint has to hold for a resumed run to be the same run.

Everything is a dict, list, number, text, None or tensor, so it loads with ``weights_only=True``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from lightning_tricks.runtime import gradient_writer
from lightning_tricks.runtime.snapshot import generators

State = dict[str, Any]


def random_state() -> State:
    """Return the states of Python's, numpy's and torch's global generators, of all devices in use.

    Example:
        >>> state = random_state()
        >>> first = torch.rand(1), random.random(), numpy.random.rand()
        >>> put_random_state(state)
        >>> (torch.rand(1), random.random(), numpy.random.rand()) == first
        True
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {
        "python": _of_python(random.getstate()),
        "numpy": _of_numpy(numpy.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
    }


def put_random_state(state: Mapping[str, Any]) -> None:
    """Put back what ``random_state`` returned; of GPUs as many as there are now."""
    random.setstate(_to_python(state["python"]))
    numpy.random.set_state(_to_numpy(state["numpy"]))
    torch.set_rng_state(state["torch"])
    for device, saved in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(saved, device)


def generator_states(loaders: Iterable[Any]) -> State:
    """Return the states of the generators that loaders, their samplers, and samplers inside these hold, by place.

    Example:
        >>> sampler = torch.utils.data.RandomSampler(range(4), generator=torch.Generator().manual_seed(1))
        >>> state = generator_states([sampler]); first = list(sampler)
        >>> put_generator_states([sampler], state); list(sampler) == first
        True
    """
    return {place: _plain(generator) for place, generator in generators(loaders)}


def put_generator_states(loaders: Iterable[Any], states: Mapping[str, Any]) -> None:
    """Put back what ``generator_states`` returned; generators that are new or gone are left alone."""
    for place, generator in generators(loaders):
        if place in states:
            _put(generator, states[place])


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients that are there, in the host's memory, by name of parameter."""
    return {n: p.grad.detach().to("cpu", copy=True) for n, p in module.named_parameters() if p.grad is not None}


def put_gradients(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Put back what ``gradients`` returned; of parameters that are gone nothing."""
    named = {name: p for name, p in module.named_parameters() if name in kept}
    gradient_writer.give(list(named.values()), [kept[name].to(p.device) for name, p in named.items()])


def _plain(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return _of_python(generator.getstate())
    if isinstance(generator, numpy.random.RandomState):
        return _of_numpy(generator.get_state(legacy=False))
    return _of_numpy(generator.bit_generator.state)


def _put(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(_to_python(state))
    elif isinstance(generator, numpy.random.RandomState):
        generator.set_state(_to_numpy(state))
    else:
        generator.bit_generator.state = _to_numpy(state)


def _of_python(state: Any) -> State:
    version, words, gauss = state
    return {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss}


def _to_python(state: Mapping[str, Any]) -> Any:
    return state["version"], tuple(state["words"].tolist()), state["gauss"]


def _of_numpy(state: Any) -> Any:
    """Arrays become tensors of int64, which holds numpy's unsigned 32-bit words; Python's own numbers stay."""
    if isinstance(state, Mapping):
        return {str(k): _of_numpy(v) for k, v in state.items()}
    if isinstance(state, numpy.ndarray):
        return torch.from_numpy(state.astype(numpy.int64))
    return state.item() if isinstance(state, numpy.generic) else state


def _to_numpy(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {k: _to_numpy(v) for k, v in state.items()}
    return state.numpy().astype(numpy.uint32) if isinstance(state, Tensor) else state
