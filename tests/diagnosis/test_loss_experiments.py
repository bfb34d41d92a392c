"""SanityCheck on the loss; the wide table of trainings is in test_sanity_on_other_trainings.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.diagnosis.test_sanity_on_other_trainings import Task, checks, classes, load, mlp, network, of, warm_up

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_loss_that_holds_something_else_too_is_not_judged() -> None:
    found = checks(*of(lambda z, y: F.cross_entropy(z, y) + 100.0))["initial loss"]
    assert found.passed is None
    assert "the loss holds something else too" in found.fix


def test_a_model_that_was_trained_before_is_no_fault() -> None:
    module, data = network(mlp())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    x, y = classes()
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(module.net(x), y).backward()
        optimizer.step()
    found = checks(module, data)
    assert found["initial loss"].passed is None
    assert not [c for c in found.values() if c.passed is False]


def test_a_first_batch_without_labels_that_count_says_nothing() -> None:
    x, y = classes()
    y[:16] = -100
    found = checks(network(mlp())[0], load(x, y, shuffle=False))["initial loss"]
    assert found.passed is None
    assert "no label of the first batch counts" in found.evidence


def test_a_sum_with_a_rate_for_means_is_named_by_its_factor() -> None:
    class Plain(Task):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    def step(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.net(b[0]), b[1], reduction="sum")

    found = checks(Plain(mlp(), step), load(*classes()))["initial loss"]
    assert found.passed is False
    assert "16 times the mean cross entropy" in found.evidence


def test_a_rate_of_0_says_nothing_about_the_model() -> None:
    found = checks(*warm_up())["overfits one batch"]
    assert found.passed is None
    assert "the learning rate is 0 before the first update" in found.evidence


def test_a_loss_that_never_changes_is_a_fault() -> None:
    def step(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.net(b[0]) * 0, b[1])

    found = checks(Task(mlp(), step), load(*classes()))["overfits one batch"]
    assert found.passed is False


def test_a_step_that_returns_no_loss_is_not_judged() -> None:
    found = checks(Task(mlp(), lambda self, b: None), load(*classes()))
    assert {found[n].passed for n in ("initial loss", "all parameters learn", "overfits one batch")} == {None}
