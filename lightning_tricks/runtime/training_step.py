"""The one place that wraps a module's ``training_step``, and that keeps its ``self.log`` calls back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_tricks.runtime.snapshot import PutBack, attributes, buffers, modes, random_numbers, replaced


class StepWrapper:
    """Puts a function around ``module.training_step`` until ``remove``.

    Example:
        >>> class Module:
        ...     def training_step(self, batch, batch_idx):
        ...         return batch + batch_idx
        >>> module, wrapper = Module(), StepWrapper()
        >>> wrapper.install(module, lambda step, *arguments: 10 * step(*arguments))
        >>> module.training_step(1, 2)
        30
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

        self._put_back = replaced(module, "training_step", training_step)

    def remove(self) -> None:
        """Make the module as it was."""
        put_back, self._put_back = self._put_back, None
        if put_back is not None:
            put_back()


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


def step_again(trainer: Any, batch: Any, batch_idx: int, *, evaluate: bool = False) -> Any:
    """Run the module's own ``training_step`` on a batch without gradients and without a trace; return its output.

    Random numbers, buffers, metrics, plain attributes and modes are put back, and nothing is logged.

    Args:
        trainer: a Trainer whose module optimizes automatically.
        batch: on the right device already.
        batch_idx: given to a ``training_step`` that takes one.
        evaluate: in eval mode.
    """
    module = trainer.lightning_module
    step = type(module).training_step
    arguments = (batch, batch_idx) if is_param_in_hook_signature(step, "batch_idx", min_args=3) else (batch,)
    undo = [random_numbers(), buffers(module), attributes(module.modules()), modes(module)]
    try:
        if evaluate:
            module.eval()
        with logs_kept_back(module), torch.no_grad(), trainer.precision_plugin.train_step_context():
            return step(module, *arguments)
    finally:
        for part in undo:
            part()


def loss_of(output: Any) -> Any:
    """Return the loss in what a ``training_step`` returned; None when there is none."""
    return output.get("loss") if isinstance(output, Mapping) else output


def replay(module: Any, calls: Sequence[Sequence[Logged]], shares: Sequence[float | Tensor]) -> None:
    """Log what several parts of one batch have kept back: of each value the mean, weighted by the parts' shares."""
    merged: dict[tuple[str, int], list[tuple[Logged, float | Tensor]]] = {}
    for part, share in zip(calls, shares, strict=True):
        seen: dict[str, int] = {}
        for call in part:
            seen[call.name] = seen.get(call.name, 0) + 1
            merged.setdefault((call.name, seen[call.name]), []).append((call, share))
    for rows in merged.values():
        last = rows[-1][0]
        options, value = dict(last.options), last.value
        if len(rows) > 1:
            if all(isinstance(call.value, (int, float, Tensor)) for call, _ in rows):
                whole = sum(share for _, share in rows)
                value = sum(call.value * share for call, share in rows) / whole
            if all(call.options.get("batch_size") for call, _ in rows):
                options["batch_size"] = sum(call.options["batch_size"] for call, _ in rows)
        module.log(last.name, value, *last.arguments, **options)
