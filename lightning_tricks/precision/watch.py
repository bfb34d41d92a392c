"""Hooks on modules that measure activations and gradients on the device. torch only, no Lightning.

Forward hooks return None, so that nothing is changed. Gradients are seen by hooks on the output tensors, not by module
backward hooks, which would put functions of their own into the graph and forbid in-place operations. Within activation
checkpointing a module runs twice, and what is seen twice counts once: all results are maxima or shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_tricks.modules.names import in_compiled_graphs, plain_modules, reachable
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.norms import largest_magnitude
from lightning_tricks.numerics.shards import local

# of float16
SMALLEST_NORMAL = 2.0**-14
LARGEST = 65504.0
_NOTHING_COMPUTED = (nn.Identity, nn.Flatten, Metric)  # (a metric's forward has no gradient, and no activation)


def watchable(root: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that hooks can reach, by plain name: all but the root and what is in a compiled graph."""
    hidden = in_compiled_graphs(root)
    return {name: module for name, module in plain_modules(root).items() if name and id(module) not in hidden}


def chosen(root: nn.Module, patterns: list[str] | None, *, owner: str) -> dict[str, nn.Module]:
    """Return the modules to measure, by plain name.

    Args:
        patterns: names or globs; None for all modules that have no children. A module that was compiled as a part
            counts as one, since its inside cannot be seen.

    Raises:
        TrickError: a pattern matches nothing.
        UnsupportedError: a pattern matches a module inside of a compiled graph.

    >>> list(chosen(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU())), None, owner="PrecisionDoctor"))
    ['0', '1.0']
    """
    known, hidden = plain_modules(root), in_compiled_graphs(root)
    if patterns is not None:
        return {name: known[name] for name in reachable(known, hidden, patterns, owner, patterns)}
    leaves = {n: m for n, m in watchable(root).items() if all(id(child) in hidden for child in m.children())}
    return {name: module for name, module in leaves.items() if not isinstance(module, _NOTHING_COMPUTED)}


def underflow_counts(gradient: Tensor, factor: float = 1.0) -> Tensor:
    """Return how many elements of ``factor * gradient`` lie below float16's normal range, ``[2]`` float32.

    The first number counts the elements with ``0 < |x| < 2^-14``, where float16 loses bits (below 2^-25 all of them);
    the second one those that are not 0. When all are 0 nothing is left of the gradient: then both are 1.

    >>> underflow_counts(torch.tensor([0.0, 1e-6, 1.0])), underflow_counts(torch.zeros(3))
    (tensor([1., 2.]), tensor([1., 1.]))
    """
    magnitude = gradient.detach().abs()
    return _underflow([_raw_counts(magnitude, factor)], [magnitude.numel()], magnitude.device)[:, 0]


def _raw_counts(magnitude: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many elements are below float16's normal range, above 0, and not 0 (NaN among these), each 0-d."""
    below = (magnitude < SMALLEST_NORMAL / factor).count_nonzero()
    return below, (magnitude > 0).count_nonzero(), magnitude.count_nonzero()


def _underflow(counts: Sequence[tuple[Tensor, ...]], sizes: Sequence[int], device: torch.device) -> Tensor:
    """Return the ``underflow_counts`` of several gradients, of ``_raw_counts`` and numbers of elements, ``[2, n]``."""
    below, positive, nonzero = (torch.stack([n.to(device) for n in column]) for column in zip(*counts, strict=True))
    zeros = torch.tensor(sizes).to(device, non_blocking=True) - nonzero
    found = torch.stack([below - zeros, positive]).to(torch.float32)
    return torch.where(nonzero == 0, torch.ones_like(found), found)


class Flow(NamedTuple):
    """What was seen of a gradient that flowed through a module's output.

    Args:
        position: of the module.
        largest: magnitude of an element, 0-d; NaN where one is.
        counts: see ``_raw_counts``.
        size: number of elements.
    """

    position: int
    largest: Tensor
    counts: tuple[Tensor, Tensor, Tensor]
    size: int


class Watch:
    """Measures the modules of a mapping while it is attached.

    Args:
        modules: name -> module. A module that is in it under two names counts under the first.
        factor: what gradients have to be multiplied by to be as large as under a loss scale; 1 where they are.
        guard: put around what the model calls: an error in it must not end the user's forward pass.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], factor: float = 1.0, guard: Callable[[Any], Any] = lambda hook: hook
    ) -> None:
        self.names = list(modules)
        self.dtypes: dict[str, torch.dtype] = {}
        self.called: list[int] = []
        self.flowed: list[int] = []
        self._modules = list(modules.values())
        self._factor, self._guard = factor, guard
        self._handles: list[Any] = []
        self._forward: list[tuple[int, Tensor]] = []
        self._backward: list[Flow] = []

    @property
    def attached(self) -> bool:
        """Whether hooks are on the modules."""
        return bool(self._handles)

    def attach(self) -> None:
        """Begin."""
        if not self._handles:
            seen = self._guard(self._seen)
            self._handles = [m.register_forward_hook(Hook(partial(seen, i))) for i, m in enumerate(self._modules)]

    def detach(self) -> None:
        """Take the hooks away; what was measured stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def clear(self) -> None:
        """Forget what was measured."""
        self._forward, self._backward = [], []

    @torch.no_grad()
    def _seen(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        for tensor in floating(output):
            self._forward.append((index, largest_magnitude(local(tensor).detach())))
            self.dtypes[self.names[index]] = tensor.dtype
            if tensor.requires_grad:  # (a module backward hook would forbid in-place operations on the output)
                tensor.register_hook(partial(self._guard(self._flowed), index))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _flowed(self, index: int, gradient: Tensor) -> None:
        if self._handles and gradient.numel():
            # (few operations: this is done for every module at a logged step)
            magnitude = local(gradient).detach().abs()
            counts = _raw_counts(magnitude, self._factor)
            self._backward.append(Flow(index, magnitude.max(), counts, magnitude.numel()))

    def collect(self, device: torch.device) -> Tensor:
        """Return what was measured since the last call, ``[4, n]`` on ``device``, and start from scratch.

        Rows: largest activation, largest gradient (as it flowed, with the loss scale), number of gradient elements
        below float16's normal range, number that are not 0. -1 and 0 where nothing was seen; ``called`` and ``flowed``
        hold the positions of the modules whose outputs and gradients were.
        """
        out = summed_up(self._forward, self._backward, len(self.names), device)
        self.called, self.flowed = (sorted({entry[0] for entry in seen}) for seen in (self._forward, self._backward))
        self.clear()
        return out


def summed_up(
    outputs: Sequence[tuple[int, Tensor]],
    gradients: Sequence[Flow],
    size: int,
    device: torch.device,
) -> Tensor:
    """Return the largest output, the largest gradient and the counts of underflow of each module, ``[4, size]``.

    Args:
        outputs: position of a module and the largest magnitude of one of its outputs, 0-d; NaN counts as inf.

    >>> summed_up([(1, torch.tensor(3.0)), (1, torch.tensor(5.0))], [], 2, torch.device("cpu")).tolist()
    [[-1.0, 5.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]
    """
    out = torch.zeros(4, size, device=device)
    # (-1: not called, as no magnitude is negative)
    out[:2] = -1.0
    for row, seen in enumerate((outputs, [(flow.position, flow.largest) for flow in gradients])):
        if seen:
            values = torch.stack([top.to(device, torch.float32) for _, top in seen])
            values = torch.nan_to_num(values, nan=torch.inf, posinf=torch.inf)
            out[row] = out[row].scatter_reduce(0, _index(seen, device), values, "amax")
    if gradients:
        counts = _underflow([flow.counts for flow in gradients], [flow.size for flow in gradients], device)
        out[2:] = out[2:].index_add(1, _index(gradients, device), counts)
    return out


def picked(values: Tensor, positions: Sequence[int]) -> Tensor:
    """Return the entries of ``[n]`` at these positions, without waiting for a device.

    >>> picked(torch.tensor([5.0, 6.0, 7.0]), [0, 2])
    tensor([5., 7.])
    """
    return values.index_select(0, torch.tensor(positions, dtype=torch.int64).to(values.device, non_blocking=True))


def _index(seen: Sequence[tuple[Any, ...]], device: torch.device) -> Tensor:
    return torch.tensor([entry[0] for entry in seen]).to(device, non_blocking=True)
