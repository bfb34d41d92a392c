"""States of frozen rules: plain dicts of tensors and numbers that go into a checkpoint as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_tricks.errors import TrickError

State = dict[str, Any]


def moved(state: State, device: torch.device) -> State:
    """Return a copy of a state (dicts of tensors, nested) on ``device``."""
    out: State = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            # A copy even on the same device: rules such as Percentile write into their state, and the caller keeps the
            # original.
            out[name] = value.detach().to(device, copy=True)
        else:
            out[name] = moved(value, device) if isinstance(value, dict) else value
    return out


def same_shape(state: State, fresh: State) -> bool:
    """Whether ``state`` has the keys, kinds and shapes of ``fresh``: the same rule, the same parts."""
    if state.keys() != fresh.keys():
        return False
    return all(_alike(state[name], fresh[name]) for name in fresh)


def _alike(one: Any, two: Any) -> bool:
    """Whether two entries are of one kind; NaN and inf are in ``one`` only if ``two`` begins with such."""
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return type(one) is type(two)
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    # (host reads, once per load of a checkpoint)
    return not any(bool(odd(one).any() & ~odd(two).any()) for odd in (torch.isnan, torch.isinf))


def fitting(owner: str, state: State, fresh: State) -> State:
    """Return ``state`` when it fits ``fresh``.

    Raises:
        TrickError: it belongs to another model or rule.
    """
    if not same_shape(state, fresh):
        raise TrickError(
            f"{owner}: the checkpoint's state has {sorted(state)} for {_size(state)} parts, this run needs "
            f"{sorted(fresh)} for {_size(fresh)}. Resume with the same model and rule, or from weights only."
        )
    return state


def _size(state: State) -> int:
    return max((v.shape[-1] for v in state.values() if isinstance(v, Tensor) and v.ndim), default=0)
