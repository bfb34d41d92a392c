from __future__ import annotations

import pytest
from torch import nn

from lightning_tricks import LossScaleGuard, PrecisionDoctor, TrickWarning
from lightning_tricks.precision.trainer_precision import precision_of
from tests.gradients.plain import Classifier, fit, trainer


@pytest.mark.parametrize("given", ["32-true", "bf16-mixed", "64-true"])
def test_the_name_is_that_of_the_trainer(given: str) -> None:
    assert precision_of(trainer([], precision=given)) == given


def test_a_plugin_without_a_name_counts_as_float32() -> None:
    class Own(nn.Module):
        precision_plugin = object()

    assert precision_of(Own()) == "32-true"


def test_two_callbacks_warn_of_the_cpu_once() -> None:
    with pytest.warns(TrickWarning, match="this run computes in bf16-mixed, which has no loss scale") as told:
        fit(Classifier(), [LossScaleGuard(), PrecisionDoctor()], n=32, precision="bf16-mixed")
    assert len([w for w in told if "bf16-mixed" in str(w.message)]) == 1
