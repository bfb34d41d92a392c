"""Measures of predictions beside those of scikit-learn and torch."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

import lightning_tricks
from lightning_tricks import PredictionSkill
from lightning_tricks.collapse import prediction
from tests.collapse.problems import PREDICTIONS, data, make


def test_predictions_are_those_of_torch() -> None:
    logits, target = data("PredictionSkill")
    loss = torch.nn.functional.cross_entropy(logits.double(), target)
    labels = torch.bincount(target, minlength=4).double()
    share = logits.double().softmax(1)
    wanted = {
        "PredictionSkill": 1 - loss / prediction.entropy(labels / 60),
        "PredictionEntropy": torch.distributions.Categorical(share).entropy().mean() / torch.tensor(4.0).log(),
    }
    for name, value in wanted.items():
        metric = make(name)
        metric.update(logits, target)
        torch.testing.assert_close(metric.compute(), value, rtol=1e-6, atol=0)
    shares = lightning_tricks.ClassShare(4)
    shares.update(logits, target)
    torch.testing.assert_close(shares.predicted_share, logits.argmax(1).bincount(minlength=4) / 60.0, check_dtype=False)
    torch.testing.assert_close(shares.label_share, labels / 60)
    assert 1 <= shares.num_predicted <= 4


@pytest.mark.parametrize("name", PREDICTIONS)
def test_ignored_targets_do_not_count_and_tokens_are_samples(name: str) -> None:
    logits, target = data(name)
    plain, padded = make(name), make(name)
    plain.update(logits, target)
    more = torch.cat([target, torch.full((4,), -100)]).reshape(8, 8)
    padded.update(torch.cat([logits, torch.randn(4, 4)]).reshape(8, 8, 4), more)
    torch.testing.assert_close(padded.compute(), plain.compute())


def test_padding_may_hold_anything() -> None:
    logits, target = data("PredictionSkill")
    plain, padded = PredictionSkill(4), PredictionSkill(4)
    plain.update(logits, target)
    nonsense = torch.full((3, 4), float("nan"))
    padded.update(torch.cat([logits, nonsense]), torch.cat([target, torch.full((3,), -100)]))
    torch.testing.assert_close(padded.compute(), plain.compute())


def test_labels_of_one_class_are_reported_and_not_divided_by() -> None:
    for name in ("PredictionSkill", "InputDependence"):
        metric = make(name)
        metric.update(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))
        assert metric.compute().isnan()


def test_the_balanced_skill_is_scikit_learns_adjusted_balanced_accuracy() -> None:
    logits, target = data("BalancedSkill", n=200)
    metric = make("BalancedSkill")
    metric.update(logits, target)
    wanted = balanced_accuracy_score(target.numpy(), logits.argmax(1).numpy(), adjusted=True)
    assert float(metric.compute()) == pytest.approx(wanted)
