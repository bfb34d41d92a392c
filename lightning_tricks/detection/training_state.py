"""What an update changes, by name: parameters, buffers, optimizer state and loss scale, for a checkpoint or a rollback.

A snapshot of a dry run (``lightning_tricks.dry_run``) keeps objects by identity and lives in memory only. This is its
counterpart on purpose: plain values by name, which another process can load.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_tricks.optimizer_step import gradient_writer

# what schedules, and people, write into groups
_SCHEDULED = frozenset(
    {
        *("lr", "initial_lr", "max_lr", "min_lr", "swa_lr", "base_lr", "weight_decay", "initial_weight_decay"),
        *("momentum", "base_momentum", "max_momentum", "betas", "eps", "lr_scale"),
    }
)


def training_state(module: nn.Module, optimizers: Iterable[Optimizer], scaler: Any) -> dict[str, Any]:
    """Return copies, in the host's memory, of what an update changes: parameters, buffers, optimizers' state, scale.

    Plain containers and tensors, to keep, to save in a checkpoint, and to give back with ``put_training_state``. Not in
    it: learning rates and other settings that schedules write, random states, and where the data stand.
    """
    optimizers = list(optimizers)
    inner = [optimizer for optimizer in with_inner(optimizers) if optimizer not in optimizers]
    return {
        "parameters": {name: on_host(t) for name, t in module.named_parameters()},
        "buffers": {name: on_host(t) for name, t in module.named_buffers()},
        "optimizers": [_plain_state(optimizer) for optimizer in optimizers],
        "inner_optimizers": [_plain_state(optimizer) for optimizer in inner],
        "groups": [_counters(optimizer) for optimizer in [*optimizers, *inner]],
        "scaler": None if scaler is None else dict(scaler.state_dict()),
    }


@torch.no_grad()
def put_training_state(state: dict[str, Any], module: nn.Module, optimizers: Iterable[Optimizer], scaler: Any) -> None:
    """Put back what ``training_state`` returned, in place where a tensor is there; gradients are dropped."""
    held: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, saved in (state["parameters"] | state["buffers"]).items():
        if name in held:
            held[name].copy_(saved)
    optimizers = list(optimizers)
    inner = [optimizer for optimizer in with_inner(optimizers) if optimizer not in optimizers]
    saved_states = [*state["optimizers"], *state.get("inner_optimizers", ())]
    for optimizer, saved_state in zip([*optimizers, *inner], saved_states, strict=False):
        _put_plain_state(optimizer, saved_state)
    for optimizer, groups in zip([*optimizers, *inner], state.get("groups", ()), strict=False):
        _put_counters(optimizer, groups)
    if scaler is not None and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    gradient_writer.clear(list(module.parameters()))


def with_inner(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Return optimizers and those that they hold, each once: Lookahead and others wrap one that has a state of its own.

    >>> outer, inner = (torch.optim.SGD([torch.zeros(1)], lr=0.1) for _ in range(2))
    >>> outer.base = inner
    >>> with_inner([outer]) == [outer, inner]
    True
    """
    found: list[Optimizer] = []
    waiting = list(optimizers)
    while waiting:
        optimizer = waiting.pop(0)
        if not any(optimizer is known for known in found):
            found.append(optimizer)
            waiting += [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return found


def on_host(tensor: Tensor) -> Tensor:
    """Return a copy in the host's memory, without a graph."""
    return tensor.detach().to("cpu", copy=True)


def _plain_state(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    members = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        i: {k: on_host(v) if isinstance(v, Tensor) else _copied(v) for k, v in optimizer.state[p].items()}
        for i, p in enumerate(members)
        if p in optimizer.state
    }


def _put_plain_state(optimizer: Optimizer, saved: dict[int, dict[str, Any]]) -> None:
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        held, values = optimizer.state.get(p, {}), saved.get(i)
        if values is None:
            optimizer.state.pop(p, None)
            continue
        # (such as a momentum buffer that the first update after the snapshot made)
        for name in held.keys() - values.keys():
            del held[name]
        for name, value in values.items():
            mine = held.get(name)
            if isinstance(value, Tensor) and isinstance(mine, Tensor) and mine.shape == value.shape:
                mine.copy_(value)
            elif isinstance(value, Tensor):
                # torch keeps Adam's 0-d step counter on the host, unless the optimizer is fused or capturable.
                held[name] = (
                    value.to(p.device, copy=True) if value.ndim or _steps_on_device(optimizer) else value.clone()
                )
            else:
                held[name] = _copied(value)
        optimizer.state[p] = held


def _counters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return copies of the numbers in an optimizer's groups, without those that schedules write.

    Many optimizers count their steps there, as those of schedulefree do, or estimate a rate, as Prodigy does.
    """
    return [
        {
            name: on_host(value) if isinstance(value, Tensor) else value
            for name, value in group.items()
            if _counts(name, value)
        }
        for group in optimizer.param_groups
    ]


def _put_counters(optimizer: Optimizer, saved: list[dict[str, Any]]) -> None:
    for group, counters in zip(optimizer.param_groups, saved, strict=False):
        for name in [n for n, value in group.items() if _counts(n, value) and n not in counters]:
            del group[name]  # (the first step after the snapshot has made it)
        for name, value in counters.items():
            mine = group.get(name)
            if isinstance(value, Tensor) and isinstance(mine, Tensor) and mine.shape == value.shape:
                mine.copy_(value)
            else:
                group[name] = value.clone() if isinstance(value, Tensor) else value


def _counts(name: str, value: Any) -> bool:
    return name not in _SCHEDULED and (type(value) in (int, float) or isinstance(value, Tensor))


def _steps_on_device(optimizer: Optimizer) -> bool:
    """Whether step counters lie beside the parameters: fused and capturable optimizers want them there."""
    return any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)


def _copied(value: Any) -> Any:
    """Return a copy of containers and tensors; anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        twin = copy.copy(value)  # keeps the kind: a defaultdict stays one
        twin.update((k, _copied(v)) for k, v in value.items())
        return twin
    if type(value) in (list, tuple, set):
        return type(value)(_copied(v) for v in value)
    return value
