from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy, pearsonr
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.collapse.prediction_values import (
    MOST_CHECKS,
    ClassCurve,
    Part,
    Targets,
    measured_rows,
    pooled_skill,
    read_rows,
)
from lightning_tricks.detection.judge import MOST_POINTS

N = 128


def read(rows: dict[str, Tensor], before: Targets | None = None) -> tuple[dict[str, float], list[float], Targets]:
    """Return what the host has of rows in parts of 64."""
    targets = (before or Targets()).shaped(rows)
    part = torch.arange(N) // 64
    vector = measured_rows({**rows, "part": part}, targets.logits, lambda own: own)
    return read_rows(vector.tolist(), targets)


def test_the_skill_of_classes_is_the_entropy_of_labels_that_the_loss_leaves_out() -> None:
    torch.manual_seed(0)
    label = torch.arange(N) % 3
    logits = torch.randn(N, 3) + F.one_hot(label)
    values, shares, targets = read({"logits": logits, "target": label})
    histogram = torch.bincount(label).double() / N
    assert values["skill"] == pytest.approx(1 - float(F.cross_entropy(logits, label)) / entropy(histogram), rel=1e-4)
    assert len(shares) == 2 * 3 and shares[3:] == pytest.approx(histogram.tolist())
    assert targets == Targets()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (torch.eye(4).repeat(N // 4, 1).roll(1, 1) + torch.eye(4).repeat(N // 4, 1), "labels"),
        (torch.rand(N, 4, generator=torch.Generator().manual_seed(0)).softmax(1), "shares"),
        (torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), "numbers"),
    ],
)
def test_the_kind_is_told_from_the_values_of_targets(values: Tensor, kind: str) -> None:
    torch.manual_seed(0)
    found, shares, targets = read({"output": torch.randn(N, 4), "values": values})
    assert targets.kind == kind and targets.paired and targets.logits and not targets.quantiles
    assert "skill" in found and not shares


def test_one_number_in_a_row_is_two_classes_until_it_is_seen_to_be_a_regression() -> None:
    torch.manual_seed(0)
    label = (torch.arange(N) % 2).float()[:, None]
    values, shares, targets = read({"output": torch.randn(N, 1), "values": label})
    assert targets.kind == "classes" and len(shares) == 4 and "macro_f1" in values
    output, target = torch.randn(N, 1), torch.randn(N, 1)
    values, shares, targets = read({"output": output, "values": target}, targets)
    assert targets.kind == "numbers" and not shares
    assert read({"output": output, "values": label}, targets)[2].kind == "numbers", "that stays known"


def test_the_correlation_of_a_good_regression_is_close_to_that_of_scipy() -> None:
    torch.manual_seed(0)
    output = torch.randn(N, 1)
    target = output + 0.1 * torch.randn(N, 1)
    values, _, _ = read({"output": output, "values": target})
    assert values["correlation"] == pytest.approx(pearsonr(output[:, 0], target[:, 0])[0], abs=0.05)


def test_outputs_in_0_to_1_are_probabilities_until_one_is_not() -> None:
    label = (torch.arange(N) % 2).float()[:, None].expand(N, 2)
    sure = torch.where(label > 0, 0.99, 0.01)
    values, _, targets = read({"output": sure, "values": label})
    assert not targets.logits and values["skill"] > 0.9
    values, _, targets = read({"output": sure, "values": label}, Targets(logits=True))
    assert targets.logits and values["skill"] < 0.3


def test_quantiles_have_a_correlation_and_no_skill() -> None:
    torch.manual_seed(0)
    target = torch.randn(N, 1)
    values, _, targets = read({"output": target + torch.tensor([-1.0, 0.0, 1.0]), "values": target})
    assert targets.quantiles and "skill" not in values and values["correlation"] > 0.95


def test_rows_of_classes_after_rows_of_values_are_not_paired() -> None:
    assert not Targets(paired=True).shaped({"logits": torch.zeros(2, 2), "target": torch.zeros(2)}).paired


def test_the_curve_of_classes_counts_checks_without_classes_and_stays_bounded() -> None:
    curve = ClassCurve()
    curve.add([], every=5)
    for _ in range(MOST_POINTS + 1):
        curve.add([0.25, 0.75, 0.5, 0.5], every=5)
    assert curve.predicted[0] == (10, [0.25, 0.75]) and curve.labelled == [0.5, 0.5]
    assert curve.predicted[-1][0] == 5 * (MOST_POINTS + 2) and len(curve.predicted) <= MOST_POINTS


def part(probability: torch.Tensor, labels: torch.Tensor) -> Part:
    share = labels.double().mean()
    entropy = F.binary_cross_entropy(share.expand(len(labels)), labels.double()).item()
    loss = F.binary_cross_entropy(probability.double(), labels.double()).item()
    return Part(1 - loss / entropy if entropy else math.nan, len(labels) * entropy, float(labels.sum()))


def test_one_check_is_enough_where_both_classes_are_frequent() -> None:
    assert pooled_skill([Part(0.8, 150.0, 100.0), Part(0.1, 150.0, 100.0)])[0] == 0.1


def test_checks_are_weighted_with_what_their_labels_tell() -> None:
    parts = [Part(0.6, 30.0, 20.0), Part(0.0, 10.0, 5.0)]
    assert pooled_skill(parts)[0] == pytest.approx(0.6 * 30 / 40)


def test_a_model_that_knows_rare_labels_is_never_below_a_quarter_of_its_best() -> None:
    generator = torch.Generator().manual_seed(0)
    alone, together = [], []
    for _ in range(20):
        parts: list[Part] = []
        for _ in range(40):
            labels = torch.rand(224, generator=generator) < 0.012
            seen = torch.where(labels, 1.6, -4.9) + 1.2 * torch.randn(224, generator=generator)
            parts.append(part((0.5 * seen - 2.2).sigmoid(), labels.float()))
            found, parts = pooled_skill(parts)
            alone.append(parts[-1].skill)
            together.append(found)
    alone, together = ([x for x in xs if math.isfinite(x)] for xs in (alone, together))
    assert min(together) > 0.25 * max(together), "pooled skills differ little"
    assert min(alone) < 0.25 * max(alone), "those of single checks are noise"


def test_nothing_is_said_of_labels_that_are_nearly_all_the_same() -> None:
    found, kept = pooled_skill([Part(-3.0, 2.0, 1.0)] * 30)
    assert math.isnan(found) and len(kept) == MOST_CHECKS
    assert math.isnan(pooled_skill([Part(math.nan, 0.0, 0.0)] * 3)[0]) and math.isnan(pooled_skill([])[0])
