"""The attempt under way: its losses, its page, and the mean of what was accumulated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks.lifecycle.attempts import Attempts
from lightning_tricks.optimizer_step.gradient_writer import GradientWriter
from lightning_tricks.optimizer_step.logbook import OptimizerView
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.optimizer_step.window_request import WindowRequest


def setting(accumulate: int = 1) -> tuple[Attempts, OptimizerView, Any]:
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.full((2,), 3.0)
    view = OptimizerView(0, torch.optim.SGD([weight], lr=0.1), {id(weight): "w"}, LossScale(None))
    trainer = SimpleNamespace(
        accumulate_grad_batches=accumulate, lightning_module=SimpleNamespace(automatic_optimization=True)
    )
    window = WindowRequest()
    return Attempts(lambda: trainer, GradientWriter(), window), view, window


def test_losses_are_kept_for_one_attempt_and_only_where_a_trick_wants_them() -> None:
    attempts, view, _ = setting()
    attempts.note_loss(torch.tensor(1.0))
    page = attempts.open(view, 0, 1)
    assert page is not None and list(page.losses) == []
    attempts.keeps_losses = True
    attempts.note_loss(torch.tensor(2.0, requires_grad=True))
    page = attempts.open(view, 0, 2)
    assert page is not None and [float(x) for x in page.losses] == [2.0] and not page.losses[0].requires_grad
    attempts.commit()
    page = attempts.open(view, 1, 3)
    assert page is not None and list(page.losses) == []


def test_a_page_belongs_to_the_optimizer_that_was_announced() -> None:
    attempts, view, _ = setting()
    other = OptimizerView(1, torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1), {}, LossScale(None))
    page = attempts.open(view, 4, 1)
    assert attempts.close(other) is None and attempts.page is None, "a bare step ends what was open"
    page = attempts.open(view, 5, 2)
    assert attempts.close(view) is page and attempts.page is None


def test_an_attempt_counts_as_begun_when_its_gradients_are_written() -> None:
    attempts, view, _ = setting()
    attempts.open(view, 0, 1)
    assert not attempts.began
    attempts.commit()
    assert attempts.began
    attempts.start()
    assert not attempts.began


def test_the_mean_is_over_the_micro_batches_that_went_backward() -> None:
    attempts, _, _ = setting(accumulate=4)
    assert attempts.mean_factor(3) == pytest.approx(4 / 3)
    attempts.own_mean_factor = lambda: 0.5
    assert attempts.mean_factor(3) == 0.5


def test_a_window_that_an_epoch_cuts_short_is_corrected_to_its_mean() -> None:
    attempts, view, window = setting(accumulate=1)
    window.ask(4)
    trainer = attempts._trainer()
    for batch_idx in (4, 5):
        window.begin_batch(trainer, batch_idx)
    assert attempts.open(view, 0, 1) is not None
    attempts.commit()
    assert torch.equal(view.parameters[0].grad, torch.full((2,), 3.0 * 4 / 2))
