"""The one place that calls, wraps and repeats a module's ``training_step``, and that keeps its logs back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_tricks.lifecycle.lightning_internals import logged_results
from lightning_tricks.modules.replaced import PutBack, replaced
from lightning_tricks.numerics.host import as_scalar

_ORIGINAL = "_lightning_tricks_original"


class StepWrapper:
    """Puts a function around ``module.training_step`` until ``remove``.

    Example:
        >>> class Module:
        ...     def training_step(self, batch, batch_idx):
        ...         return batch + batch_idx
        >>> module, wrapper = Module(), StepWrapper()
        >>> wrapper.install(module, lambda step, *arguments: 10 * step(*arguments))
        >>> module.training_step(1, 2), original_step(module)(1, 2)
        (30, 3)
        >>> wrapper.remove(); module.training_step(1, 2)
        3
    """

    def __init__(self) -> None:
        self._put_back: PutBack | None = None

    def install(self, module: Any, around: Callable[..., Any]) -> None:
        """Call ``around(step, *arguments)`` instead of ``step(*arguments)``."""
        self.remove()
        step = module.training_step

        @functools.wraps(step)  # Lightning looks at its arguments
        def training_step(*arguments: Any) -> Any:
            return around(step, *arguments)

        setattr(training_step, _ORIGINAL, step)
        self._put_back = replaced(module, "training_step", training_step)

    def remove(self) -> None:
        """Make the module as it was."""
        put_back, self._put_back = self._put_back, None
        if put_back is not None:
            put_back()


def original_step(module: Any) -> Callable[..., Any]:
    """Return the module's own ``training_step``, bound, without what ``StepWrapper`` put around it."""
    step: Callable[..., Any] = module.training_step
    while hasattr(step, _ORIGINAL):
        step = getattr(step, _ORIGINAL)
    return step


def step_arguments(step: Callable[..., Any], batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """Return the arguments of a ``training_step``, by position: Lightning's own rule.

    Its second argument may have any name, or be missing.

    Args:
        step: bound to its module, as Lightning sees it.
        batch_idx: the second one, for a step that takes two.

    Example:
        >>> class Module:
        ...     def training_step(self, batch, i): ...
        ...     def short_step(self, batch): ...
        >>> step_arguments(Module().training_step, "batch", 7), step_arguments(Module().short_step, "batch", 7)
        (('batch', 7), ('batch',))
    """
    return (batch, batch_idx) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else (batch,)


@dataclass
class Logged:
    """One call of ``self.log``."""

    name: str
    value: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@contextmanager
def logs_kept_back(module: Any) -> Iterator[list[Logged]]:
    """Give the list into which ``module.log`` (and ``log_dict``, which calls it) writes meanwhile."""
    calls: list[Logged] = []

    def log(name: str, value: Any, *arguments: Any, **options: Any) -> None:
        calls.append(Logged(name, value.detach() if isinstance(value, Tensor) else value, arguments, options))

    put_back = replaced(module, "log", log)
    try:
        yield calls
    finally:
        put_back()


@contextmanager
def loggers_kept_silent(trainer: Any, callbacks: Sequence[Any] = ()) -> Iterator[None]:
    """Let everything that is logged meanwhile go nowhere: by the loggers, by the module, by callbacks.

    Args:
        callbacks: on which Lightning has put the module's ``log`` and ``log_dict``.
    """
    with ExitStack() as stack:
        stack.enter_context(logs_kept_back(trainer.lightning_module))
        stack.callback(replaced(trainer, "_loggers", [DummyLogger() for _ in trainer.loggers]))
        # where ``module.log`` itself was given away before (a loss that is handed ``self.log``), it writes there
        loop = trainer.fit_loop.epoch_loop
        stack.callback(replaced(loop, "_results", type(logged_results(loop))(training=True)))
        for callback in callbacks:
            for name in ("log", "log_dict"):
                if name in vars(callback):
                    stack.callback(replaced(callback, name, lambda *arguments, **options: None))
        yield


def loss_of(output: Any) -> Any:
    """Return the loss in what a ``training_step`` returned; None when there is none."""
    return output.get("loss") if isinstance(output, Mapping) else output


Reduction = Literal["mean", "sum", "min", "max"]
_REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "min", "max")
_LOG_ARGUMENTS = list(inspect.signature(LightningModule.log).parameters)[3:]  # without self, name and value


def replay(module: Any, calls: Sequence[Sequence[Logged]], shares: Sequence[float | Tensor]) -> None:
    """Log what several parts of one batch have kept back as the whole batch would have.

    Of each value by its ``reduce_fx``: a sum stays the sum of the parts, a maximum their largest, and a mean is
    weighted by the parts' shares. Parts in which nothing counts have no mean, largest or smallest value.
    """
    merged: dict[tuple[str, int], list[tuple[Logged, float | Tensor]]] = {}
    for part, share in zip(calls, shares, strict=True):
        seen: dict[str, int] = {}
        for call in part:
            # A key may be logged more than once in a step; its n-th calls in all parts belong together.
            seen[call.name] = seen.get(call.name, 0) + 1
            merged.setdefault((call.name, seen[call.name]), []).append((call, share))
    for rows in merged.values():
        last = rows[-1][0]
        options, value = dict(last.options), last.value
        if len(rows) > 1:
            if all(isinstance(call.value, (int, float, Tensor)) for call, _ in rows):
                value = reduced([call.value for call, _ in rows], [share for _, share in rows], _reduction(last))
            if all(call.options.get("batch_size") is not None for call, _ in rows):
                options["batch_size"] = sum(call.options["batch_size"] for call, _ in rows)
        module.log(last.name, value, *last.arguments, **options)


def reduced(values: Sequence[float | Tensor], shares: Sequence[float | Tensor], how: Reduction) -> float | Tensor:
    """Return one value from those of the parts of a batch.

    Args:
        values: of the parts, one number each.
        shares: what each counts; all but a sum leave out those of share 0 (0 x NaN is NaN). NaN where all are 0.

    Example:
        >>> reduced([1.0, 3.0], [0.25, 0.75], "mean"), reduced([1.0, float("nan")], [1.0, 0.0], "max")
        (tensor(2.5000), tensor(1.))
    """
    if how == "sum":
        return sum(values)
    tensors = [x for x in (*values, *shares) if isinstance(x, Tensor)]
    device = tensors[0].device if tensors else torch.device("cpu")
    double = any(x.dtype == torch.float64 for x in values if isinstance(x, Tensor))
    dtype = torch.float64 if double else torch.float32  # (a mean in half precision would lose what its parts have)
    value, share = (torch.stack([as_scalar(x, device, dtype) for x in row]) for row in (values, shares))
    counts = share != 0
    if how == "mean":
        return torch.where(counts, value * share, 0.0).sum() / share.sum()
    edge = torch.inf if how == "min" else -torch.inf
    kept = torch.where(counts, value, edge)
    return torch.where(counts.any(), kept.amin() if how == "min" else kept.amax(), torch.nan)


def _reduction(call: Logged) -> Reduction:
    """Return how Lightning reduces a value that is logged; the mean for what it will refuse itself."""
    given = {**dict(zip(_LOG_ARGUMENTS, call.arguments, strict=False)), **call.options}.get("reduce_fx", "mean")
    name = str(given if isinstance(given, str) else getattr(given, "__name__", "")).lower()
    return next((known for known in _REDUCTIONS if known == name), "mean")
