"""Which module was the first to give something that is not finite: notes of one forward pass. torch only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_tricks.modules.replaced import Hook
from lightning_tricks.numerics.norms import largest_magnitude
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.trees import tree_leaves


def largest(tensor: Tensor) -> Tensor:
    """Return the largest magnitude as 0-d float32; inf when an element is NaN or inf."""
    top = largest_magnitude(tensor.detach()).to(torch.float32)
    return torch.nan_to_num(top, nan=torch.inf, posinf=torch.inf)


class Call(NamedTuple):
    """One call of a module.

    Args:
        largest_input: largest magnitude; inf for NaN or inf.
        largest_output: the same of the output.
        weights_finite: whether the module's own weights are.
        masks: whether the output holds ``-inf`` and is finite otherwise, as attention masks do on purpose.
    """

    name: str
    largest_input: float
    largest_output: float
    weights_finite: bool = True
    masks: bool = False


class Trace:
    """Notes for every call of every module, in the order in which they end, whether inputs and outputs are finite.

    For one forward pass after an overflow; read it with ``calls``.

    Args:
        guard: put around what the model calls: an error in it must not end the user's forward pass.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
        >>> with Trace(dict(net.named_modules())) as trace, torch.no_grad():
        ...     _ = net[0].weight.fill_(1e38), net(torch.full((1, 1), 1e10))
        >>> [(call.name, call.largest_input, call.largest_output) for call in trace.calls()]
        [('0', 10000000000.0, inf), ('1', inf, inf), ('', 10000000000.0, inf)]
    """

    def __init__(self, modules: Mapping[str, nn.Module], guard: Callable[[Any], Any] = lambda hook: hook) -> None:
        self._modules, self._guard = dict(modules), guard
        self._seen: list[tuple[str, Tensor]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Trace:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def attach(self) -> None:
        """Begin."""
        for name, module in self._modules.items():
            note = partial(self._guard(self._note), name)
            self._handles.append(module.register_forward_hook(Hook(note), with_kwargs=True))

    def detach(self) -> None:
        """Take the hooks away; what was noted stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _note(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        into, out = _largest_of((args, kwargs)), _largest_of(output)
        top = _largest_of([t.amax().reshape(1) for t in map(local, floating(output))])  # inf for NaN, not for -inf
        self._seen.append((name, torch.stack([x.to(out.device) for x in (into, out, top)])))

    def calls(self) -> list[Call]:
        """Return all calls in the order in which they ended; one host read for all."""
        if not self._seen:
            return []
        device = self._seen[0][1].device
        own = {name: _largest_of(list(self._modules[name].parameters(recurse=False))) for name, _ in self._seen}
        rows = torch.stack(
            [torch.cat([found, own[name].reshape(1).to(found)]).to(device) for name, found in self._seen]
        )
        calls = []
        for (name, _), (into, out, top, weight) in zip(self._seen, rows.tolist(), strict=True):
            masks = out == torch.inf and top < torch.inf
            calls.append(Call(name, into, out, weight < torch.inf, masks))
        return calls


def floating(value: Any) -> list[Tensor]:
    """Return the floating-point tensors in nested containers, also in objects that behave as a dict."""
    leaves = tree_leaves(value)
    deeper = [x for leaf in leaves if isinstance(leaf, dict) for x in leaf.values()]  # unregistered output classes
    return [t for t in [*leaves, *deeper] if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]


def _largest_of(value: Any) -> Tensor:
    tensors = floating(value)
    if not tensors:
        return torch.zeros(())
    tops = [largest(local(t)) for t in tensors]
    return torch.stack([top.to(tops[0].device) for top in tops]).max()
