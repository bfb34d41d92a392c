from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss, r2_score

import lightning_tricks
from tests.collapse.problems import NUMBERS, data, make


def test_several_labels_are_as_many_binary_skills() -> None:
    logits, target = data("MultilabelSkill", n=200)
    metric = make("MultilabelSkill")
    metric.update(logits, target)
    losses, best = [], []
    for k in range(4):
        p = logits[:, k].double().sigmoid().numpy()
        losses.append(log_loss(target[:, k].numpy(), p))
        q = float(target[:, k].double().mean())
        best.append(-(q * math.log(q) + (1 - q) * math.log(1 - q)))
    wanted = [1 - a / b for a, b in zip(losses, best, strict=True)]
    assert metric.per_label.tolist() == pytest.approx(wanted)
    assert float(metric.compute()) == pytest.approx(1 - sum(losses) / sum(best))
    constant = lightning_tricks.MultilabelSkill(2)
    constant.update(torch.zeros(5, 2), torch.tensor([[0.0, 1.0]] * 5))
    assert constant.compute().isnan(), "labels that are constant have nothing to predict"


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_a_regression_has_scikit_learns_r_squared_also_far_from_zero(shift: float) -> None:
    output, target = data("RegressionSkill", n=200)
    skill, ratio = lightning_tricks.RegressionSkill(4), lightning_tricks.SpreadRatio(4)
    for metric in (skill, ratio):
        metric.update(output.double() + shift, target.double() - 1e4 + shift)
    one, two = output.double().numpy(), target.double().numpy() - 1e4
    wanted = r2_score(two, one, multioutput="variance_weighted")
    assert float(skill.compute()) == pytest.approx(wanted, abs=1e-5)
    assert float(ratio.compute()) == pytest.approx(one.var(0).sum() / two.var(0).sum(), rel=1e-4)


def test_constant_predictions_have_no_spread_and_constant_targets_no_skill() -> None:
    skill, ratio = lightning_tricks.RegressionSkill(), lightning_tricks.SpreadRatio()
    for metric in (skill, ratio):
        metric.update(torch.full((9,), 3.3), torch.arange(9.0))
    assert ratio.compute() == 0.0
    assert float(skill.compute()) < 0.0
    for metric in (skill, ratio):
        metric.reset()
        metric.update(torch.arange(9.0), torch.full((9,), 3.3))
        assert metric.compute().isnan()


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_other_shapes_are_not_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match=r"have the shape \(5, 4\), and are not broadcast"):
        make(name).update(torch.zeros(5, 4), torch.zeros(5))
    with pytest.raises(ValueError, match="the last dimension must be 4"):
        make(name).update(torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="must be a whole number >= 1"):
        getattr(lightning_tricks, name)(0)
