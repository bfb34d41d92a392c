"""Calls of torch's functions that a training step makes, recorded while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode

MOST_CALLS = 64  # of a step that are kept

Found = TypeVar("Found")
Change = Callable[[Tensor], Tensor]


class RecordedCalls(TorchFunctionMode, Generic[Found]):
    """Keeps what a subclass reads from the calls that are made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Found] = []

    def read(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterable[Found]:
        """Return what is kept of a call that is about to be made."""
        return ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Read the call, and make it."""
        if len(self.found) < MOST_CALLS:
            self.found.extend(self.read(func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class ChangedCalls(RecordedCalls[Tensor]):
    """Keeps a tensor of each call, and may put another one in the place of one of them.

    Args:
        at: number of the call whose tensor is changed.
        change: of this tensor.
    """

    def __init__(self, at: int | None = None, change: Change | None = None) -> None:
        super().__init__()
        self._at, self._change, self._calls = at, change, 0

    def replaced(self, tensor: Tensor) -> Tensor | None:
        """Keep the tensor of one more call; return what takes its place, None where it stays."""
        if len(self.found) < MOST_CALLS:
            self.found.append(tensor.detach().clone())
        self._calls += 1
        if self._change is None or self._calls - 1 != self._at:
            return None
        return self._change(tensor.detach().clone())
