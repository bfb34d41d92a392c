from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.collapse.pair_numbers import NUMBERS, measured_pairs
from lightning_tricks.collapse.pairs import kind_of, read_pairs, two_classes


def measured(output: Tensor, target: Tensor, **given: Any) -> dict[str, float]:
    part = torch.arange(len(output)) // 64
    vector = measured_pairs(output.float(), target.float(), part, lambda own: own, **given)
    return dict(zip(NUMBERS, vector.tolist(), strict=True))


def test_several_labels_have_the_skill_of_torchs_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(256, 5)
    target = (logits + 2 * torch.randn(256, 5) > 1).float()
    seen = measured(logits, target)
    q = target.double().mean(0)
    best = float(-(q * q.log() + (1 - q) * (1 - q).log()).sum())
    loss = float(F.binary_cross_entropy_with_logits(logits.double(), target.double(), reduction="none").mean(0).sum())
    assert seen["label_skill"] == pytest.approx(1 - loss / best, abs=1e-4)
    assert kind_of(seen, two_classes=False) == "labels"
    assert seen["score"] > 5
    probabilities = measured(logits.sigmoid(), target)
    assert probabilities["label_skill"] == pytest.approx(seen["label_skill"], abs=1e-3), "outputs in [0, 1]"
    assert measured(logits.sigmoid(), target, logits=True)["label_skill"] < 0.9 * seen["label_skill"]


def test_frequencies_and_zeros_have_no_spread_and_no_skill() -> None:
    torch.manual_seed(1)
    target = (torch.rand(256, 5) < torch.tensor([0.5, 0.1, 0.05, 0.3, 0.9])).float()
    frequencies = measured(torch.logit(target.mean(0)).expand(256, 5), target)
    assert frequencies["label_skill"] == pytest.approx(0.0, abs=1e-4)
    zeros = measured(torch.full((256, 5), -9.0), target)
    assert zeros["label_skill"] < 0
    for seen in (frequencies, zeros):
        assert seen["label_spread"] == pytest.approx(0.0, abs=1e-12)
        assert seen["score"] == 0.0


def test_shares_have_the_skill_of_soft_classes() -> None:
    torch.manual_seed(2)
    target = torch.distributions.Dirichlet(torch.ones(4)).sample((256,))
    logits = target.log() + 0.3 * torch.randn(256, 4)
    seen = measured(logits, target)
    q = target.double().mean(0)
    loss = float(F.cross_entropy(logits.double(), target.double()))
    assert seen["class_skill"] == pytest.approx(1 - loss / float(-(q * q.log()).sum()), abs=1e-4)
    assert kind_of(seen, two_classes=False) == "shares"


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1e5, 1e3)])
def test_a_regression_has_r_squared_and_a_correlation_that_units_do_not_change(shift: float, scale: float) -> None:
    torch.manual_seed(3)
    x = torch.randn(512, 1)
    target = x + 2 * torch.randn(512, 1)
    seen = measured(0.2 * x * scale + shift, target * scale + shift)
    residual = ((0.2 * x - target).double() ** 2).sum() / ((target - target.mean()).double() ** 2).sum()
    assert seen["r_squared"] == pytest.approx(1 - float(residual), abs=1e-3)
    assert seen["correlation"] == pytest.approx(pearsonr(x.squeeze(1), target.squeeze(1)).statistic, abs=0.1)
    assert seen["score"] > 5
    assert kind_of(seen, two_classes=True) == "numbers"
    other = measured(0.2 * x, target * 50 + 1e4)
    assert other["r_squared"] < 0, "in other units"
    assert other["score"] == pytest.approx(seen["score"], abs=0.1)


def test_heavy_tails_leave_the_association_as_it_is() -> None:
    torch.manual_seed(4)
    x = torch.randn(512, 1)
    target = x + torch.distributions.StudentT(1.2).sample((512, 1))
    target[7] = 1e8
    seen = measured(x, target)
    assert seen["score"] > 5
    assert seen["spread"] > 0.05, "predictions vary as much as half of the targets do"
    assert measured(torch.full((512, 1), 0.3), target)["spread"] == 0.0


def test_constant_predictions_of_a_regression_have_no_spread() -> None:
    torch.manual_seed(5)
    seen = measured(torch.full((128, 2), 7.7), torch.randn(128, 2))
    assert seen["spread"] == pytest.approx(0.0, abs=1e-9)
    values = read_pairs(seen, "numbers")
    assert values["input_dependence"] == values["_spread"]
    assert math.isnan(read_pairs(measured(torch.randn(128, 1), torch.full((128, 1), 2.0)), "numbers")["_spread"])


def test_rows_with_a_missing_target_are_left_out() -> None:
    torch.manual_seed(6)
    output, target = torch.randn(128, 2), torch.randn(128, 2)
    spoilt = target.clone()
    spoilt[64:, 1] = math.nan
    whole, part = measured(output[:64], target[:64]), measured(output, spoilt)
    for name in ("count", "r_squared", "score", "variance_ratio", "squared_error"):
        assert part[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-5), name
    logits, label = two_classes(output[:, :1], spoilt[:, 1:], torch.tensor(False))
    assert logits.shape == (128, 2)
    assert (label[64:] == -100).all()


def test_quantiles_have_a_correlation_only() -> None:
    torch.manual_seed(7)
    x = torch.randn(256, 1)
    seen = measured(x + torch.tensor([-1.0, 0.0, 1.0]), x + torch.randn(256, 1))
    values = read_pairs(seen, "numbers", quantiles=True)
    assert set(values) == {"input_dependence", "_spread", "squared_error", "correlation", "_score", "_count"}
    assert values["_score"] > 5
    assert kind_of({"other": 0.0, "uneven": 1.0}, two_classes=True) == "classes"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_measured_and_raise_nothing(bad: float) -> None:
    output = torch.randn(128, 1)
    output[5] = bad
    seen = measured(output, torch.randn(128, 1))
    assert not math.isfinite(read_pairs(seen, "numbers")["squared_error"])
    assert not math.isfinite(seen["label_loss"]) or bad == math.inf
