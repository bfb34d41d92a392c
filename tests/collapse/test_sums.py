from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss
from torch import Tensor, nn

from lightning_tricks.collapse import sums
from lightning_tricks.collapse.prediction_sums import add_predictions, measured_predictions
from lightning_tricks.collapse.sums import (
    add_features,
    add_rows,
    centre,
    feature_rows,
    floating_tensor,
    measured_features,
    read_features,
)


def measured(features: Tensor, parts: int = 4) -> dict[str, float]:
    gathered: dict[str, Tensor] = {}
    mean: dict[str, Tensor] = {}
    for part in features.tensor_split(parts):
        add_rows(mean, part)
    for part in features.tensor_split(parts):
        add_features(gathered, part, centre(mean), torch.full((len(part),), -1))
    return read_features(measured_features(gathered).tolist())[0]


@pytest.mark.parametrize("mean", [0.0, 10.0, 1000.0])
def test_features_are_those_of_numpy_in_float64_also_far_from_zero(mean: float) -> None:
    torch.manual_seed(0)
    features = torch.randn(400, 6) @ torch.randn(6, 40) + mean
    x = features.double().numpy()
    unit = x / numpy.linalg.norm(x, axis=1, keepdims=True)
    sigma = numpy.sqrt(numpy.clip(numpy.linalg.eigvalsh(numpy.cov(x.T, bias=True)), 0, None))
    sigma = sigma[sigma**2 > 1e-5 * sigma.max() ** 2]
    share = sigma / sigma.sum()
    values = measured(features)
    assert values["sphere_variance"] == pytest.approx(1 - (unit.mean(0) ** 2).sum(), abs=1e-5)
    assert values["effective_rank"] == pytest.approx(numpy.exp(-(share * numpy.log(share)).sum()), rel=0.02)
    assert values["rank_share"] == pytest.approx(values["effective_rank"] / 40)


@pytest.mark.parametrize("rank", [3, 20, 300])
def test_wide_features_are_sketched_and_few_dimensions_are_still_seen(rank: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(512, rank) @ torch.randn(rank, 2048)
    values = measured(features)
    assert values["effective_rank"] == pytest.approx(min(rank, 110), rel=0.25)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 300), st.integers(0, 2**31), st.sampled_from([0.0, 0.1, 30.0, 1e3]), st.sampled_from([0.0, 1e-7]))
def test_one_vector_has_no_rank_also_with_the_rounding_of_float32(d: int, seed: int, mean: float, noise: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = (torch.randn(1, d, generator=draw) + mean).expand(200, d)
    values = measured(rows * (1 + noise * torch.randn(200, d, generator=draw)))
    assert values["effective_rank"] == values["rank_share"] == 0.0
    assert values["sphere_variance"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("std", [1e-3, 1e-4])
def test_few_dimensions_beside_a_large_mean_are_their_number_and_not_that_of_the_rounding(std: float) -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 3, dtype=torch.float64)).Q
    features = (1.0 + std * torch.randn(400, 3, dtype=torch.float64) @ basis.T).float()
    sigma = torch.linalg.svdvals(features.double() - features.double().mean(0))[:3]
    share = sigma / sigma.sum()
    expected = float(torch.special.entr(share).sum().exp())
    assert measured(features)["effective_rank"] == pytest.approx(expected, rel=0.02)


def test_zeros_and_constants_and_nan_have_collapsed() -> None:
    assert measured(torch.zeros(50, 8))["sphere_variance"] == 0.0
    constant = measured(torch.ones(50, 8))
    assert constant["sphere_variance"] == pytest.approx(0.0, abs=1e-6)
    assert constant["rank_share"] == 0.0
    assert measured(torch.full((50, 8), torch.nan))["finite"] == 0.0


@pytest.mark.parametrize(
    ("shape", "rows"), [((7, 5), (7, 5)), ((3, 4, 5), (12, 5)), ((7, 5, 4, 4), (7, 5)), ((7, 5, 2, 2, 2), (7, 5))]
)
def test_outputs_become_rows(shape: tuple[int, ...], rows: tuple[int, int]) -> None:
    tensor = torch.randn(shape)
    assert feature_rows(tensor, 512).shape == rows
    if tensor.ndim > 3:
        torch.testing.assert_close(feature_rows(tensor, 512), tensor.flatten(2).mean(2))
    assert len(feature_rows(torch.randn(5000, 3), 512)) == 512


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 40))
def test_rows_of_sequences_are_taken_evenly_from_all_positions_and_all_samples(n: int, tokens: int) -> None:
    """Images ``[n, d, ...]`` have no positions left; ``[n, tokens, d]`` and labels ``[n, tokens]`` have the same ones."""
    sample, position = torch.meshgrid(torch.arange(n), torch.arange(tokens), indexing="ij")
    rows = feature_rows(torch.stack([sample, position], -1).float(), 512).long()
    kept = min(512, n * tokens)
    of_positions = torch.bincount(rows[:, 1], minlength=tokens)
    assert int(of_positions.max() - of_positions.min()) <= 1
    assert len(rows.unique(dim=0)) == len(rows) == kept
    seen = rows[:, 0].unique()
    wide = torch.cat([seen, seen[:1] + n]).diff().max() if len(seen) > 1 else torch.tensor(n)
    assert int(wide) <= max(1, 4 * math.ceil(n / kept))


def test_the_first_floating_tensor_is_found() -> None:
    tensor = torch.randn(2, 3)
    for output in (tensor, (torch.tensor([1]), tensor), {"a": [None, tensor]}):
        assert floating_tensor(output) is not None
        assert floating_tensor(output).data_ptr() == tensor.data_ptr()  # type: ignore[union-attr]
    assert floating_tensor(["text", 3]) is None


def test_predictions_are_those_of_scikit_learn() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(300, 4) * 2, torch.randint(4, (300,))
    target[:100] = 1
    ignored = torch.cat([target, torch.full((50,), -100)])
    gathered: dict[str, Tensor] = {}
    for a, b in zip(torch.cat([logits, torch.randn(50, 4)]).tensor_split(3), ignored.tensor_split(3), strict=True):
        add_predictions(gathered, a, b)
    vector = measured_predictions(gathered).tolist()
    values = dict(zip(sums.PREDICTION, vector, strict=False))
    p, y, guess = logits.softmax(1).double().numpy(), target.numpy(), logits.argmax(1).numpy()
    p /= p.sum(1, keepdims=True)
    q = numpy.bincount(y, minlength=4) / len(y)
    entropy = -(q * numpy.log(q)).sum()
    assert values["cross_entropy"] == pytest.approx(log_loss(y, p), rel=1e-4)
    assert values["skill"] == pytest.approx(1 - log_loss(y, p) / entropy, rel=1e-3, abs=1e-4)
    assert values["macro_f1"] == pytest.approx(f1_score(y, guess, average="macro"), rel=1e-6)
    assert values["top_share"] == pytest.approx(numpy.bincount(guess).max() / len(guess))
    assert vector[len(sums.PREDICTION) :][4:] == pytest.approx(q.tolist(), abs=1e-6)


def test_one_class_of_labels_is_undefined_and_not_divided_by() -> None:
    gathered: dict[str, Tensor] = {}
    add_predictions(gathered, torch.randn(10, 3), torch.zeros(10, dtype=torch.int64))
    assert numpy.isnan(dict(zip(sums.PREDICTION, measured_predictions(gathered).tolist(), strict=False))["skill"])


def test_the_sketch_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    nn.Identity()
    sums.sketch(300, 16, torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state())
