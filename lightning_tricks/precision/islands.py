"""fp32 islands: modules and functions that run in float32 inside an autocast region. torch only, no Lightning.

An island leaves autocast, takes its floating inputs in float32 and gives float32 back; autocast casts it for whoever
comes next. Its weights are float32 already: mixed precision keeps them so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from lightning_tricks.errors import UnsupportedError, message
from lightning_tricks.modules.names import in_compiled_graphs, plain_modules, reachable, refuse_compiled
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.numerics.trees import tree_leaves, tree_map

_P = ParamSpec("_P")
_R = TypeVar("_R")
_OWNER = "FP32Islands"
_HALVES = (torch.float16, torch.bfloat16)
_WITH_FLOAT32_WEIGHTS = ("16-mixed", "bf16-mixed", "32-true", "64-true")

AUTO = "auto"  # stands for the modules that a PrecisionDoctor finds


def to_float32(value: Any) -> Any:
    """Return the value with its float16 and bfloat16 tensors in float32; everything else as it is.

    >>> [t.dtype for t in to_float32([torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.int64)])]
    [torch.float32, torch.int64]
    """
    return tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.dtype in _HALVES else t, value)


def in_fp32(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function an island: for losses that are written with ``torch.nn.functional`` in ``training_step``.

    Args:
        function: takes tensors, on one device.

    Returns:
        The function, which now runs outside autocast, on float32 inputs.

    Example:
        >>> @in_fp32
        ... def loss(logits):
        ...     return (logits * logits).sum()
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     float(loss(torch.full((1,), 300.0, dtype=torch.float16)))  # 90,000 would overflow in float16
        90000.0
    """

    @functools.wraps(function)
    def island(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        found = (t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        with torch.autocast(next(found, "cpu"), enabled=False):
            return function(*to_float32(args), **to_float32(kwargs))

    return island


class Islands:
    """Keeps a set of modules in float32.

    Args:
        device_type: of the autocast region, ``"cuda"`` or ``"cpu"``.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> islands = Islands("cpu")
        >>> islands.add("1", net[1])
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     net[0](torch.ones(1)).dtype, net(torch.ones(1)).dtype
        (torch.bfloat16, torch.float32)
        >>> islands.remove()
    """

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type
        self._handles: dict[str, list[Any]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def add(self, name: str, module: nn.Module) -> None:
        """Make a module an island, until ``remove``. Its methods other than ``forward`` are not changed.

        Raises:
            UnsupportedError: it holds 16-bit weights, which no island can give their bits back.
        """
        if name in self._handles:
            return
        halved = [n for n, p in module.named_parameters() if p.dtype in _HALVES]
        if halved:
            raise UnsupportedError(
                f"FP32Islands: {name!r} has weights in 16 bit ({halved[0]!r}), as under '16-true' and 'bf16-true'. "
                "Use precision='16-mixed' or 'bf16-mixed'."
            )
        regions: list[torch.autocast] = []  # one per call that is under way: a module may call itself

        def enter(_: nn.Module, args: Any, kwargs: Any) -> Any:
            # (entered and left by hand, since two hooks cannot share a ``with``)
            region = torch.autocast(self._device_type, enabled=False)
            region.__enter__()  # type: ignore[no-untyped-call]
            regions.append(region)
            return to_float32(args), to_float32(kwargs)

        def leave(*_: Any) -> None:
            if regions:  # empty when another hook failed before ours ran
                regions.pop().__exit__(None, None, None)

        self._handles[name] = [
            module.register_forward_pre_hook(Hook(enter, reads=False), with_kwargs=True),
            module.register_forward_hook(Hook(leave, reads=False), always_call=True),  # also when the module raises
        ]

    def remove(self) -> None:
        """Make all modules as they were."""
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()


def refuse_half_weights(precision: str, modules: list[str]) -> None:
    """Refuse a precision that keeps the weights themselves in 16 bit."""
    if precision not in _WITH_FLOAT32_WEIGHTS:
        text = f"precision={precision!r} keeps the weights themselves in 16 bit"
        remedy = "Use precision='16-mixed' or 'bf16-mixed'"
        raise UnsupportedError(message(_OWNER, "modules", modules, text, remedy))


def named_islands(root: nn.Module, modules: list[str], found: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules that are to be islands, by plain name.

    Args:
        modules: what the user has asked for: names, globs, or ``"auto"``.
        found: what a PrecisionDoctor found before; what is no longer there is left out.

    Raises:
        TrickError: a name or glob matches nothing.
        UnsupportedError: the network is compiled as a whole, or a module is part of a compiled graph.

    >>> net = nn.ModuleDict({"body": nn.ReLU(), "head": nn.ReLU()})
    >>> list(named_islands(net, ["head", "auto"], ["body", "gone"]))
    ['head', 'body']
    """
    refuse_compiled(root, _OWNER)
    known, hidden = plain_modules(root), in_compiled_graphs(root)
    names = reachable(known, hidden, [p for p in modules if p != AUTO], _OWNER, modules)
    return {name: known[name] for name in [*names, *(n for n in found if n in known)]}
