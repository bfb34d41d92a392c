"""The gradients of the window that is open: whether they are still there, and which backward pass they leave out."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.torch_internals import version_of
from lightning_tricks.optimizer_step import gradient_writer


class WindowGradients:
    """Watches what the backward passes of a window have written into ``p.grad``."""

    def __init__(self) -> None:
        self.apart: list[Tensor | None] | None = None  # of a backward pass that is over before Lightning asks for it
        self._last_write: tuple[Tensor, int] | None = None  # a gradient, and its version after the last backward pass
        self._handles: list[RemovableHandle] = []

    def note(self, run: TrainingRun) -> None:
        """Remember, after a backward pass, what was written."""
        # (one gradient stands for all: ``zero_grad`` treats them alike)
        written = _first_gradient(run)
        self._last_write = None if written is None else (written, version_of(written))

    def forget(self) -> None:
        """Forget what was written: the window is over."""
        self._last_write = None

    def join_apart(self, module: Any) -> bool:
        """Add gradients that were kept apart to those of the window; return whether there were any."""
        apart, self.apart = self.apart, None
        if apart is not None:
            gradient_writer.add(trained(module), apart)
        return apart is not None

    def drop_apart(self) -> None:
        """Forget gradients that were kept apart: a run begins or ends."""
        self.apart = None

    def thrown_away(self, run: TrainingRun) -> bool:
        """Whether the gradients are gone, since somebody has called ``zero_grad`` in the middle of a window.

        Their values are read only where they were written to since the last backward pass, which is rare: a look at
        each of them in every micro-batch would wait for the device.
        """
        if self._last_write is None or any(view.sharded for view in run.views):
            # No parameter had a gradient, or a resumed window goes on; FSDP2 keeps gradients of a window elsewhere.
            return False
        gradients = (p.grad for view in run.views for p in view.parameters if p.grad is not None)
        first = next(gradients, None)
        written, version = self._last_write
        if first is None or (first is written and version_of(written) == version):
            return first is None
        # A host read, and only after somebody wrote to them: ``zero_grad(set_to_none=False)`` leaves tensors of zeros.
        return not any(gradient_writer.holds_something(g) for g in (first, *gradients))

    def leave_out(self, module: Any, factor: float | Tensor) -> None:
        """Keep the next backward pass from counting where its factor is 0: its gradients may be NaN."""
        alive = factor != 0 if isinstance(factor, Tensor) else None
        self._handles = gradient_writer.leave_out(trained(module), alive)

    def count_again(self) -> None:
        """Let every backward pass count."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()


def _first_gradient(run: TrainingRun) -> Tensor | None:
    for view in run.views:
        for parameter in view.parameters:
            if parameter.grad is not None:
                return parameter.grad
    return None


def trained(module: Any) -> list[Tensor]:
    """Return the parameters of a module that have gradients."""
    return [p for p in module.parameters() if p.requires_grad]
