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


def training_state(module: nn.Module, optimizers: Iterable[Optimizer], scaler: Any) -> dict[str, Any]:
    """Return copies, in the host's memory, of what an update changes: parameters, buffers, optimizers' state, scale.

    Plain containers and tensors, to keep, to save in a checkpoint, and to give back with ``put_training_state``. Not in
    it: learning rates and other settings of parameter groups, random states, and where the data stand.
    """
    return {
        "parameters": {name: on_host(t) for name, t in module.named_parameters()},
        "buffers": {name: on_host(t) for name, t in module.named_buffers()},
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
