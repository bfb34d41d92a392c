from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_tricks.collapse.prediction_metrics import (
    ClassShare,
    InputDependence,
    MacroF1Gain,
    PredictionEntropy,
    PredictionSkill,
)
from lightning_tricks.collapse.prediction_sums import add_predictions
from lightning_tricks.modules.labels import counted


@settings(max_examples=40, deadline=None)
@given(st.integers(-200, -1), st.integers(0, 2**31))
def test_negative_labels_are_one_thing_to_detectors_and_metrics(negative: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits, target = torch.randn(60, 4, generator=draw), torch.randint(4, (60,), generator=draw)
    out = torch.rand(60, generator=draw) < 0.4
    marked, spoilt = target.masked_fill(out, negative), logits.masked_fill(out[:, None], torch.nan)
    expected: dict[str, Tensor] = {}
    add_predictions(expected, logits[~out], target[~out])
    gathered: dict[str, Tensor] = {}
    add_predictions(gathered, spoilt, marked)
    for name, value in expected.items():
        torch.testing.assert_close(gathered[name], value, rtol=1e-5, atol=1e-5)
    for metric in (PredictionSkill, PredictionEntropy, ClassShare, InputDependence, MacroF1Gain):
        one, other = metric(4), metric(4)
        one.update(spoilt, marked)
        other.update(logits[~out], target[~out])
        torch.testing.assert_close(one.compute(), other.compute(), rtol=1e-9, atol=1e-9)
    assert torch.equal(counted(marked, 4), torch.bincount(target[~out], minlength=4).float())
