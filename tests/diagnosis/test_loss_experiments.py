"""SanityCheck on the loss; the wide table of trainings is in test_sanity_on_other_trainings.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.diagnosis.problems import Task, checks, classes, load, mlp, network, of, warm_up

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


def test_of_a_step_that_never_returns_a_loss_only_that_is_judged() -> None:
    found = checks(Task(mlp(), lambda self, b: None), load(*classes()))
    assert {found[n].passed for n in ("initial loss", "overfits one batch")} == {None}
    assert found["all parameters learn"].passed is False


def risks(longer: bool) -> Any:
    """Cox's partial likelihood of some rows, written out sample by sample."""

    def step(self: Any, b: Any) -> Any:
        z, (_, time, event) = self.net(b[0]).squeeze(1), b
        later = (time[None] >= time[:, None]) if longer else (time[None] <= time[:, None])
        at_risk = z[None].expand(len(z), -1).masked_fill(~later, -torch.inf).logsumexp(1)
        return ((at_risk - z) * event).sum() / event.sum()

    x, _ = classes()
    generator = torch.Generator().manual_seed(0)
    time = -torch.rand(len(x), generator=generator).log() * torch.exp(-x[:, 0])
    return Task(mlp(1), step), load(x, time, (torch.rand(len(x), generator=generator) < 0.7).float())


def test_a_risk_set_of_those_who_went_before_is_a_fault() -> None:
    assert checks(*risks(longer=True))["initial loss"].passed
    found = checks(*risks(longer=False))["initial loss"]
    assert found.passed is False and "with those who went before as the risk set" in found.evidence


def test_a_column_of_the_target_that_broadcasts_is_a_fault_and_a_distance_of_distributions_is_none() -> None:
    def asked(loss: Any) -> Any:
        x, _ = classes()
        module = Task(mlp(1), lambda self, b: loss(self.net(b[0]), b[1]))
        return checks(module, load(x, x[:, :1] - x[:, 1:2])).get("shapes of outputs and labels")

    found = asked(lambda p, t: F.l1_loss(p.expand(-1, len(t)), t[:, 0].expand(len(p), -1)))
    assert found.passed is False and "a column of targets (16, 1)" in found.evidence
    assert asked(lambda p, t: (p.sort(0).values - t.sort(0).values).square().mean()) is None
    assert asked(F.mse_loss) is None


def energy(self: Any, b: Any) -> Any:
    made = self.net(torch.randn(len(b[0]), 12))
    return 2 * (made - b[0]).abs().mean() - (made - made.T).abs().mean()


def mixture(self: Any, b: Any) -> Any:
    nodes = torch.linspace(-3, 3, 16)[:, None]
    likelihoods = -0.5 * (b[0] - self.net(nodes.expand(-1, 12))).square() - 0.5 * nodes.square()
    return -likelihoods.logsumexp(0).mean()


@pytest.mark.parametrize("step", [energy, mixture])
def test_outputs_of_noise_or_at_nodes_belong_to_no_target_in_particular(step: Any) -> None:
    x, _ = classes()
    found = checks(Task(mlp(1), step), load(x[:, 0]))
    assert "shapes of outputs and labels" not in found
