"""The attempted update under way: the losses of its window, its page, and how its gradients are corrected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.optimizer_step.gradient_writer import GradientWriter
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.window_request import WindowRequest


class Attempts:
    """What the tricks of a run share of the attempt that is open.

    Args:
        trainer: gives the Trainer.
        writer: of the run.
        window: a longer accumulation window that a trick has asked for.
    """

    def __init__(self, trainer: Callable[[], Any], writer: GradientWriter, window: WindowRequest) -> None:
        self.keeps_losses = False  # whether a trick wants the losses of a window
        self.own_mean_factor: Callable[[], float | Tensor] | None = None
        self.began = False  # whether an update was attempted in this fit
        self.page: Page | None = None  # of the attempt that is open
        self._trainer, self._writer, self._window = trainer, writer, window
        self._losses: list[Tensor] = []
        self._went_backward = False  # in this batch

    def start(self) -> None:
        """Begin a fit."""
        self.began = self._went_backward = False
        self.forget()

    def forget(self) -> None:
        """Forget what was measured of an update that will not be made, or is over."""
        self.page, self._losses = None, []

    def begin_batch(self) -> None:
        """A batch starts."""
        self._went_backward = False

    def note_loss(self, loss: Tensor) -> None:
        """Remember the losses of this window, on the device."""
        self._went_backward = True
        if self.keeps_losses:
            # the graph must not live on: with accumulation that would be one graph per micro-batch
            self._losses.append(loss.detach())

    def open(self, view: OptimizerView, step: int, number: int) -> Page | None:
        """Open the page of an attempt, or return None when Lightning will not step after all.

        Args:
            view: the optimizer.
            step: the x axis of Lightning's loggers.
            number: of the attempt, from 1.
        """
        trainer, self.page = self._trainer(), None
        silent = view.loss_scale.active and not self._went_backward
        if silent and trainer.lightning_module.automatic_optimization:
            # training_step returned None: with a GradScaler, Lightning neither unscales nor steps
            return None
        # (the page keeps this list, so ``commit`` begins another one and does not clear it)
        self.page = page = Page(view, step, number, self._losses)
        correction = self._window.correction(trainer)
        if correction is not None:
            factor = torch.full((), correction, dtype=torch.float32, device=view.device)
            page.correct(factor)
            # noted on the page too: norms that are read before the gradients are written have to be the corrected ones
            self._writer.scale(factor)
        return page

    def commit(self) -> None:
        """All tricks have seen the gradients: write them."""
        self.began = True
        self._losses = []
        if self.page is not None:
            self._writer.commit(self.page)

    def close(self, view: OptimizerView) -> Page | None:
        """The step of an optimizer is over: return its page, or None where Lightning did not announce the step."""
        page = self.page if self.page is not None and self.page.view is view else None
        self.forget()  # (the losses too: a bare optimizer's step was never committed)
        return page

    def mean_factor(self, batches: int) -> float | Tensor:
        """Return what the accumulated gradient has to be multiplied by to be the mean of what is in it so far.

        Args:
            batches: micro-batches that went backward since the window began.
        """
        if self.own_mean_factor is not None:
            return self.own_mean_factor()
        return float(self._trainer().accumulate_grad_batches) / batches
