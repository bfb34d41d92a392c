"""A failing training counts as one that can be rescued where its twin has another rate or batch, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from benchmarks.models import trainings as t
from benchmarks.models.rescuable import differs_in_rate_or_batch
from benchmarks.models.scenario import failing, healthy


def net() -> nn.Module:
    return t.mlp([64, 16, 10])


def made(**more: Any) -> Any:
    options = {"net": net, "optimizer": t.sgd(0.1), "steps": 20, **more}
    return lambda seed: t.classifier(seed, **options)


TWIN = healthy("family", "twin", 0.9, made())


@pytest.mark.parametrize("more", [{"optimizer": t.sgd(5.0)}, {"batch": 2}, {"steps": 90}, {"rate": lambda step: 40.0}])
def test_another_rate_or_batch_can_be_rescued(more: dict[str, Any]) -> None:
    assert differs_in_rate_or_batch(failing("family", "fails", 0.9, made(**more), twin="twin"), TWIN)


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": t.sgd(5.0, weight_decay=30.0)},
        {"optimizer": t.adam(5.0)},
        {"net": lambda: t.mlp([64, 32, 10])},
        {"spoil": lambda batch, index: (batch[0] * 0, batch[1])},
        {"step": lambda task, batch, index: {"loss": -t.classify(task, batch, index)["loss"]}},
    ],
)
def test_another_loss_model_optimizer_or_data_cannot(more: dict[str, Any]) -> None:
    assert not differs_in_rate_or_batch(failing("family", "fails", 0.9, made(**more), twin="twin"), TWIN)
