"""What the metrics keep, and what they refuse."""

from __future__ import annotations

import pytest
import torch

import lightning_tricks
from lightning_tricks import EffectiveRank
from tests.collapse.problems import data


def test_features_keep_no_graph_and_no_samples() -> None:
    metric = EffectiveRank(6)
    (features,) = data("EffectiveRank", 500)
    metric.update(features.requires_grad_())
    held = sum(t.numel() for t in metric.metric_state.values())
    assert held == 6 * 6 + 6 + 1
    assert not any(t.requires_grad for t in metric.metric_state.values())


def test_samples_of_another_shape_are_refused() -> None:
    metric = lightning_tricks.metrics.Uniformity()
    metric.update(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="2 numbers each, those before had 3"):
        metric.update(torch.zeros(2, 2))
