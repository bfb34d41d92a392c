"""Steps outside of Lightning's loop: the losses, gradients and updates that plain torch gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from tests.problems import Classifier, fit, weights


class Try(Trick):
    """Calls a function inside of a dry run, before training."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def _before_start(self, run: TrainingRun) -> None:
        with DryRun(run, "Try") as dry_run:
            self.found = self.function(dry_run, run.trainer.lightning_module)


def tried(function: Any) -> Any:
    trick = Try(function)
    fit(Classifier(), [trick], n=32)
    return trick.found


def test_forward_and_backward_give_the_loss_and_the_gradients_of_torch() -> None:
    def look(dry_run: DryRun, module: Any) -> tuple[Any, ...]:
        batch = dry_run.data.next_batch()
        twin = copy.deepcopy(module.net)
        loss = dry_run.steps.forward(batch, 0)
        loss = loss["loss"] if isinstance(loss, dict) else loss
        dry_run.steps.backward(loss)
        expected = functional.cross_entropy(twin(batch[0]), batch[1])
        gradients = torch.autograd.grad(expected, list(twin.parameters()))
        return float(loss.detach()), float(expected.detach()), [p.grad for p in module.net.parameters()], gradients

    loss, expected, found, gradients = tried(look)
    assert loss == pytest.approx(expected)
    for a, b in zip(found, gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_an_update_is_one_step_of_the_optimizer_and_its_loss_is_the_mean() -> None:
    def look(dry_run: DryRun, module: Any) -> tuple[Any, ...]:
        batch = dry_run.data.next_batch()
        dry_run.data.hold([batch])
        twin = copy.deepcopy(module.net)
        loss = dry_run.update()
        optimizer = torch.optim.SGD(twin.parameters(), lr=dry_run.steps.optimizer.param_groups[0]["lr"])
        expected = functional.cross_entropy(twin(batch[0]), batch[1])
        expected.backward()
        optimizer.step()
        moved = torch.cat([p.detach().flatten() for p in module.net.parameters()])
        return loss, float(expected.detach()), moved, torch.cat([p.detach().flatten() for p in twin.parameters()])

    loss, expected, moved, twin = tried(look)
    assert loss == pytest.approx(expected)
    torch.testing.assert_close(moved, twin)


def test_weights_that_are_not_finite_are_seen_and_put_back() -> None:
    def look(dry_run: DryRun, module: Any) -> tuple[bool, bool]:
        before = dry_run.steps.weights_finite()
        with torch.no_grad():
            next(module.parameters()).fill_(torch.nan)
        return before, dry_run.steps.weights_finite()

    module, trick = Classifier(), Try(look)
    fit(module, [trick], n=32)
    assert trick.found == (True, False)
    assert bool(torch.isfinite(weights(module)).all())
