"""Take a training state in memory, and put it back bit for bit.

Each function below takes one part of the state now and returns a function that puts it back; ``Snapshot`` is all of
them. Tensors are put back in place, so that whoever holds one (an optimizer, a compiled graph) holds the right one.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_tricks.runtime import gradient_writer

PutBack = Callable[[], None]

_PLAIN = (int, float, complex, str, bytes, bool, type(None), list, dict, set, tuple, deque, Tensor)
_OF_TORCH = frozenset(nn.Module().__dict__)


class Snapshot:
    """The whole training state of a run before its first update.

    Parameters, buffers, plain attributes and modes of the module, optimizers, GradScaler, gradients, random states, and
    the generators of samplers. Copies lie in the host's memory.

    Args:
        module: the LightningModule.
        optimizers: its torch optimizers.
        scaler: the GradScaler, or None.
        samplers: samplers and loaders whose generators are drawn from.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> snapshot = Snapshot(module, [], None, [])
        >>> before = module.weight.item()
        >>> _ = nn.init.constant_(module.weight, 7.0)
        >>> snapshot.put_back(); module.weight.item() == before
        True
    """

    def __init__(
        self, module: nn.Module, optimizers: Iterable[Optimizer], scaler: Any, samplers: Iterable[Any]
    ) -> None:
        parameters = list(module.parameters())
        kept = gradient_writer.take(parameters)
        gradient_writer.give(parameters, kept)
        self._parts = [
            tensors([*parameters, *(g for g in kept if g is not None)], on_host=True),
            lambda: gradient_writer.give(parameters, kept),
            buffers(module, on_host=True),
            attributes(module.modules()),
            modes(module),
            *(optimizer_state(optimizer) for optimizer in optimizers),
            *([] if scaler is None else [scaler_state(scaler)]),
            *(generator_states(sampler) for sampler in samplers),
            random_numbers(),
        ]

    def put_back(self) -> None:
        """Make everything as it was. May be called more than once."""
        for part in self._parts:
            part()


def random_numbers() -> PutBack:
    """Python's, numpy's and torch's global generators, of all devices that are in use."""
    python, of_numpy, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def put_back() -> None:
        random.setstate(python)
        numpy.random.set_state(of_numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return put_back


def tensors(held: Iterable[Tensor], *, on_host: bool) -> PutBack:
    """The values of tensors.

    Args:
        held: the tensors; they are written in place later.
        on_host: keep the copies in the host's memory, and not beside the originals.
    """
    originals = list(held)
    copies = [t.detach().to("cpu", copy=True) if on_host else t.detach().clone() for t in originals]

    @torch.no_grad()
    def put_back() -> None:
        for original, saved in zip(originals, copies, strict=True):
            original.copy_(saved)

    return put_back


def buffers(module: nn.Module, *, on_host: bool = False) -> PutBack:
    """All buffers, also non-persistent ones, and those that a forward pass replaces instead of writing into."""
    owners = [(m, dict(m._buffers)) for m in module.modules() if m._buffers]
    values = tensors((b for _, held in owners for b in held.values() if b is not None), on_host=on_host)

    def put_back() -> None:
        for owner, held in owners:
            owner._buffers.clear()
            owner._buffers.update(held)
        values()

    return put_back


def replaced(owner: Any, name: str, value: Any) -> PutBack:
    """Give an object an attribute or method of its own; return what makes it as it was.

    Example:
        >>> class Loop:
        ...     def run(self): return 1
        >>> loop = Loop()
        >>> put_back = replaced(loop, "run", lambda: 2)
        >>> loop.run(), put_back(), loop.run(), vars(loop)
        (2, None, 1, {})
    """
    own, before = name in vars(owner), vars(owner).get(name)
    vars(owner)[name] = value

    def put_back() -> None:
        if own:
            vars(owner)[name] = before
        else:
            vars(owner).pop(name, None)

    return put_back


def attributes(modules: Iterable[nn.Module]) -> PutBack:
    """Plain attributes of modules: numbers, texts, tensors, and containers of them; states of metrics are such."""
    owners = [(m, dict(m.__dict__), {k: _copied(v) for k, v in _plain(m)}) for m in modules]

    def put_back() -> None:
        for owner, before, copies in owners:
            for name in owner.__dict__.keys() - before.keys() - _OF_TORCH:
                del owner.__dict__[name]
            for name, saved in copies.items():
                owner.__dict__[name] = _refilled(before[name], _copied(saved))

    return put_back


def modes(module: nn.Module) -> PutBack:
    """Which modules are in train and which in eval mode, and which parameters require gradients."""
    training = [(m, m.training) for m in module.modules()]
    required = [(p, p.requires_grad) for p in module.parameters()]

    def put_back() -> None:
        for m, was in training:
            m.training = was
        for p, wanted in required:
            p.requires_grad_(wanted)

    return put_back


def optimizer_state(optimizer: Optimizer) -> PutBack:
    """State and parameter groups of an optimizer; its own dictionaries and tensors are kept."""
    state = {p: dict(values) for p, values in optimizer.state.items()}
    values = tensors((v for held in state.values() for v in held.values() if isinstance(v, Tensor)), on_host=True)
    groups = [{k: _copied(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    members = [list(group["params"]) for group in optimizer.param_groups]

    def put_back() -> None:
        optimizer.state.clear()
        for p, held in state.items():
            optimizer.state[p] = dict(held)
        values()
        del optimizer.param_groups[len(groups) :]
        for group, saved, params in zip(optimizer.param_groups, groups, members, strict=True):
            for name in group.keys() - saved.keys() - {"params"}:
                del group[name]
            for name, value in saved.items():
                group[name] = _refilled(group.get(name), _copied(value))
            group["params"] = list(params)

    return put_back


def scaler_state(scaler: Any) -> PutBack:
    """All fields of a GradScaler; before its first use its tensors are not there yet."""
    before = {name: _copied(value) for name, value in vars(scaler).items()}

    def put_back() -> None:
        for name, value in before.items():
            vars(scaler)[name] = _copied(value)

    return put_back


def generator_states(owner: Any) -> PutBack:
    """The states of the generators that a loader, a sampler, or a sampler inside it holds."""
    found: list[tuple[Any, Any]] = []
    for _, value in generators([owner]):
        if isinstance(value, (torch.Generator, numpy.random.RandomState)):
            found.append((value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            found.append((value.setstate, value.getstate()))
        else:
            found.append((lambda s, g=value: setattr(g.bit_generator, "state", s), value.bit_generator.state))

    def put_back() -> None:
        for put, state in found:
            put(state)

    return put_back


def generators(owners: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Give each random generator that loaders, samplers, and samplers inside these hold, once, with its place.

    Example:
        >>> sampler = torch.utils.data.RandomSampler(range(4), generator=torch.Generator())
        >>> [place for place, _ in generators([sampler])]
        ['0.generator']
    """
    seen: set[int] = set()

    def search(place: str, thing: Any) -> Iterator[tuple[str, Any]]:
        if id(thing) in seen or not hasattr(thing, "__dict__"):
            return
        seen.add(id(thing))
        for name, value in sorted(vars(thing).items()):
            if isinstance(value, (torch.Generator, random.Random, numpy.random.RandomState, numpy.random.Generator)):
                if id(value) not in seen:
                    seen.add(id(value))
                    yield f"{place}.{name}", value
            elif "sampler" in name:
                yield from search(f"{place}.{name}", value)

    for i, owner in enumerate(owners):
        yield from search(str(i), owner)


def _plain(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name not in _OF_TORCH and isinstance(value, _PLAIN):
            yield name, value


def _copied(value: Any) -> Any:
    """Copy containers and tensors; what is in containers and neither is kept as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        twin = copy.copy(value)  # keeps the kind: a defaultdict stays one
        twin.update((k, _copied(v)) for k, v in value.items())
        return twin
    if isinstance(value, deque):
        return deque((_copied(v) for v in value), value.maxlen)
    if type(value) in (list, tuple, set):
        return type(value)(_copied(v) for v in value)
    if isinstance(value, (list, set)):  # somebody's own kind, whose constructor is not known
        return _refilled(copy.copy(value), [_copied(v) for v in value])
    return value


def _refilled(original: Any, saved: Any) -> Any:
    """Return ``saved``, in the original container or tensor where that can take it."""
    if isinstance(original, Tensor) and isinstance(saved, Tensor) and original.shape == saved.shape:
        with torch.no_grad():
            return original.copy_(saved) if original.dtype == saved.dtype and original.is_leaf else saved
    if original is saved:
        return original
    if isinstance(original, (dict, set)) and isinstance(saved, (type(original), list)):
        original.clear()
        original.update(saved)
        return original
    if isinstance(original, (list, deque)) and isinstance(saved, (type(original), list)):
        original.clear()
        original.extend(saved)
        return original
    return saved


# -- states that go into a checkpoint ---------------------------------------------------------------------------------


def training_state(module: nn.Module, optimizers: Iterable[Optimizer], scaler: Any) -> dict[str, Any]:
    """Return copies, in the host's memory, of what an update changes: parameters, buffers, optimizers' state, scale.

    Plain containers and tensors, to keep, to save in a checkpoint, and to give back with ``put_training_state``. Not in
    it: learning rates and other settings of parameter groups, random states, and where the data stand.
    """
    return {
        "parameters": {name: _on_host(t) for name, t in module.named_parameters()},
        "buffers": {name: _on_host(t) for name, t in module.named_buffers()},
        "optimizers": [_plain_state(optimizer) for optimizer in optimizers],
        "scaler": None if scaler is None else dict(scaler.state_dict()),
    }


@torch.no_grad()
def put_training_state(state: dict[str, Any], module: nn.Module, optimizers: Iterable[Optimizer], scaler: Any) -> None:
    """Put back what ``training_state`` returned, in place where a tensor is there; gradients are dropped.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> state, before = training_state(net, [optimizer], None), net.weight.item()
        >>> _ = nn.init.constant_(net.weight, 7.0)
        >>> put_training_state(state, net, [optimizer], None); net.weight.item() == before
        True
    """
    held: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, saved in (state["parameters"] | state["buffers"]).items():
        if name in held:
            held[name].copy_(saved)
    for optimizer, saved_state in zip(optimizers, state["optimizers"], strict=True):
        _put_plain_state(optimizer, saved_state)
    if scaler is not None and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    gradient_writer.clear(list(module.parameters()))


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _plain_state(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    members = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        i: {k: _on_host(v) if isinstance(v, Tensor) else _copied(v) for k, v in optimizer.state[p].items()}
        for i, p in enumerate(members)
        if p in optimizer.state
    }


def _put_plain_state(optimizer: Optimizer, saved: dict[int, dict[str, Any]]) -> None:
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        held, values = optimizer.state.get(p, {}), saved.get(i)
        if values is None:
            optimizer.state.pop(p, None)
            continue
        for name in held.keys() - values.keys():
            del held[name]
        for name, value in values.items():
            mine = held.get(name)
            if isinstance(value, Tensor) and isinstance(mine, Tensor) and mine.shape == value.shape:
                mine.copy_(value)
            elif isinstance(value, Tensor):
                held[name] = (
                    value.to(p.device, copy=True) if value.ndim or _steps_on_device(optimizer) else value.clone()
                )
            else:
                held[name] = _copied(value)
        optimizer.state[p] = held


def _steps_on_device(optimizer: Optimizer) -> bool:
    """Whether step counters lie beside the parameters: fused and capturable optimizers want them there."""
    return any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
