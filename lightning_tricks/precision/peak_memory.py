"""How much memory a function allocates at its peak, and what a training holds between two steps. torch only."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from lightning_tricks.numerics.torch_internals import TorchDispatchMode
from lightning_tricks.numerics.trees import tree_leaves


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """Return how much memory a function allocates at most beyond what is there when it begins.

    On a GPU from torch's own statistics; on a CPU the tensors that are alive at once (without what
    kernels allocate inside).

    >>> peak_bytes(lambda: torch.zeros(1000).add(1), torch.device("cpu"))
    8000
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    # torch keeps no statistics of memory on a CPU
    live = LiveTensors()
    with live:
        function()
    return live.peak


class LiveTensors(TorchDispatchMode):
    """Follows the sizes of all tensors that operations make, forward and backward, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):  # what was there before does not count
                self._known.setdefault(tensor.untyped_storage(), 0)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, size)  # views share a storage, which is freed once
        return result

    def _free(self, size: int) -> None:
        self.now -= size


def held_tensors(module: nn.Module, optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """Yield what a training holds between two steps: parameters, buffers, and the optimizers' state.

    >>> len(list(held_tensors(nn.Linear(1, 1), [])))
    2
    """
    yield from module.parameters()
    yield from module.buffers()
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (t for t in state.values() if isinstance(t, Tensor))
