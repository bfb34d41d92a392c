"""The states of random generators of every kind, as plain values.

A state is a dict, number, None or tensor, so it goes into a snapshot in memory as well as into a checkpoint that loads
with ``weights_only=True``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

State = dict[str, Any]

KINDS = (torch.Generator, random.Random, numpy.random.RandomState, numpy.random.Generator, numpy.random.BitGenerator)
_ACCELERATORS = ("mps", "xpu")  # (CUDA has a key of its own in checkpoints since the first version)


def is_generator(thing: Any) -> bool:
    """Whether an object is a random generator whose state can be taken and set.

    >>> is_generator(random.Random(0)), is_generator(random.SystemRandom())
    (True, False)
    """
    return isinstance(thing, KINDS) and not isinstance(thing, random.SystemRandom)


def state_of(generator: Any) -> Any:
    """Return the state of one generator."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return _from_python(generator.getstate())
    if isinstance(generator, numpy.random.RandomState):
        return _from_numpy(generator.get_state(legacy=False))
    bits = getattr(generator, "bit_generator", generator)
    return {**_from_numpy(bits.state), **_spawned(bits)}


def set_state(generator: Any, state: Any) -> None:
    """Give a generator the state that ``state_of`` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(_to_python(state))
    elif isinstance(generator, numpy.random.RandomState):
        generator.set_state(_to_numpy(state))
    else:
        bits = getattr(generator, "bit_generator", generator)
        bits.state = _to_numpy({k: v for k, v in state.items() if k != _SPAWNED})
        # ``Generator.spawn`` counts its children in the seed sequence, which the state of the bit generator does not
        # hold.
        seed, spawned = getattr(bits, "seed_seq", None), state.get(_SPAWNED, 0)
        if seed is not None and seed.n_children_spawned != spawned:
            known = {name: getattr(seed, name) for name in ("entropy", "spawn_key", "pool_size")}
            bits.__setstate__((bits.state, numpy.random.SeedSequence(**known, n_children_spawned=spawned)))


def global_state() -> State:
    """Return the states of Python's, numpy's and torch's global generators, of all devices in use."""
    # (to ask a GPU that nobody uses would initialise it, which takes memory and time)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {
        "python": _from_python(random.getstate()),
        "numpy": _from_numpy(numpy.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
        **{name: getattr(torch, name).get_rng_state() for name in _ACCELERATORS if _is_there(name)},
    }


def set_global_state(state: Mapping[str, Any]) -> None:
    """Set what ``global_state`` returned; of GPUs as many as there are now."""
    random.setstate(_to_python(state["python"]))
    numpy.random.set_state(_to_numpy(state["numpy"]))
    torch.set_rng_state(state["torch"])
    for device, saved in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(saved, device)
    for name in _ACCELERATORS:
        if name in state and _is_there(name):
            getattr(torch, name).set_rng_state(state[name])


def places_of(owners: Iterable[Any]) -> dict[str, Any]:
    """Return the generators that loaders, their samplers, and samplers inside these hold, by place.

    The places are part of checkpoints: ``"0.sampler.generator"`` is that of the first loader's sampler.

    Example:
        >>> sampler = torch.utils.data.RandomSampler(range(4), generator=torch.Generator())
        >>> list(places_of([sampler]))
        ['0.generator']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def search(place: str, thing: Any) -> None:
        if id(thing) in seen or not hasattr(thing, "__dict__"):
            return
        seen.add(id(thing))
        # (sorted, so that places are the same in the process that resumes)
        for name, value in sorted(vars(thing).items()):
            if is_generator(value):
                if id(value) not in seen:
                    seen.add(id(value))
                    found[f"{place}.{name}"] = value
            elif "sampler" in name:
                search(f"{place}.{name}", value)

    for i, owner in enumerate(owners):
        search(str(i), owner)
    return found


def _is_there(accelerator: str) -> bool:
    module = getattr(torch, accelerator, None)
    return module is not None and bool(module.is_available())


def _from_python(state: Any) -> State:
    version, words, gauss = state
    return {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss}


def _to_python(state: Mapping[str, Any]) -> Any:
    return state["version"], tuple(state["words"].tolist()), state["gauss"]


_SPAWNED = "spawned"  # how many generators were made from this one


def _spawned(bits: Any) -> State:
    spawned = getattr(getattr(bits, "seed_seq", None), "n_children_spawned", 0)
    return {_SPAWNED: int(spawned)} if spawned else {}


_WIDE = "uint64"  # a key for arrays that int64 holds bit by bit only


def _from_numpy(state: Any) -> Any:
    """Arrays become tensors of int64, which holds numpy's unsigned 32-bit words; Python's own numbers stay."""
    if isinstance(state, Mapping):
        return {str(k): _from_numpy(v) for k, v in state.items()}
    if isinstance(state, numpy.ndarray):
        if state.dtype == numpy.uint64:  # (Philox, SFC64)
            return {_WIDE: torch.from_numpy(state.view(numpy.int64).copy())}
        return torch.from_numpy(state.astype(numpy.int64))
    return state.item() if isinstance(state, numpy.generic) else state


def _to_numpy(state: Any) -> Any:
    if isinstance(state, Mapping):
        if set(state) == {_WIDE}:
            return state[_WIDE].numpy().view(numpy.uint64)
        return {k: _to_numpy(v) for k, v in state.items()}
    return state.numpy().astype(numpy.uint32) if isinstance(state, Tensor) else state
