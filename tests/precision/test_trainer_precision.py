from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
from torch import nn

from lightning_tricks import CachedMixedPrecision, LossScaleGuard, PrecisionDoctor, TrickWarning
from lightning_tricks.precision.trainer_precision import precision_of, switch_precision
from tests.problems import Classifier, fit, trainer


@pytest.mark.parametrize("given", ["32-true", "bf16-mixed", "64-true"])
def test_the_name_is_that_of_the_trainer(given: str) -> None:
    assert precision_of(trainer([], precision=given)) == given


def test_a_plugin_without_a_name_counts_as_float32() -> None:
    class Own(nn.Module):
        precision_plugin = object()

    assert precision_of(Own()) == "32-true"


def test_a_run_in_bf16_that_was_asked_for_is_not_commented_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        fit(Classifier(), [LossScaleGuard(), PrecisionDoctor()], n=32, precision="bf16-mixed")


@pytest.mark.parametrize("namespace", [lightning.pytorch, pytorch_lightning])
@pytest.mark.parametrize(("to", "name"), [("bf16", "bf16-mixed"), ("fp32", "32-true")])
def test_a_trainer_gets_a_plugin_of_its_own_namespace(namespace: Any, to: str, name: str) -> None:
    plugins = namespace.plugins
    t = namespace.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, plugins=[plugins.MixedPrecision("16-mixed", "cpu")]
    )
    switch_precision(t, to)
    assert precision_of(t) == name
    kind = plugins.MixedPrecision if to == "bf16" else plugins.Precision
    assert type(t.precision_plugin) is kind


def test_a_weight_cache_stays_when_the_precision_changes() -> None:
    t = trainer([], plugins=[CachedMixedPrecision("16-mixed", "cpu")], precision=None)
    switch_precision(t, "bf16")
    assert type(t.precision_plugin) is CachedMixedPrecision and precision_of(t) == "bf16-mixed"
