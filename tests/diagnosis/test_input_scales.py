"""Inputs that are prepared for validation in another way than for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from torch import Tensor

from lightning_tricks.diagnosis.input_scales import NAME, prepared_differently
from tests.diagnosis.problems import Task, checks, cross_entropy, load, mlp

Transform = Callable[[Tensor], Tensor]
PIXELS = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
STANDARD: Transform = lambda x: (x - 0.307) / 0.376  # noqa: E731
TRANSFORMS: dict[str, Transform] = {
    "pixels from 0 to 1": lambda x: x,
    "bytes as floats": lambda x: 255 * x,
    "standardised": STANDARD,
    "from -1 to 1": lambda x: 2 * x - 1,
}


@pytest.mark.parametrize("validation", TRANSFORMS)
@pytest.mark.parametrize("training", TRANSFORMS)
def test_images_of_two_transforms_are_told_apart(training: str, validation: str) -> None:
    found = prepared_differently([TRANSFORMS[training](PIXELS[:900])], [TRANSFORMS[validation](PIXELS[900:1000])])
    unknown = {"standardised", "from -1 to 1"}  # (both have numbers below 0: another spread proves nothing)
    if training == validation or {training, validation} == unknown:
        assert found is None
    else:
        assert found is not None
        assert found.passed is False


@pytest.mark.parametrize("scaler", [StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler, None])
@pytest.mark.parametrize("load_data", [load_breast_cancer, load_wine, load_iris, load_diabetes])
def test_rows_of_one_table_are_alike_whatever_scaled_them(load_data: Callable[..., object], scaler: type) -> None:
    rows = load_data().data  # type: ignore[attr-defined]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).numpy()
    train, held = rows[order[:100]], rows[order[100:]]
    if scaler is not None:
        fitted = scaler().fit(train)
        train, held = fitted.transform(train), fitted.transform(held)
    assert prepared_differently([torch.tensor(train)], [torch.tensor(held)]) is None


def test_a_table_that_was_scaled_on_one_side_only() -> None:
    rows = load_breast_cancer().data
    raw, scaled = torch.tensor(rows[:400]), torch.tensor(StandardScaler().fit_transform(rows)[400:])
    found = prepared_differently([raw], [scaled])
    assert found is not None
    assert found.name == NAME


def test_a_later_part_of_a_series_with_a_trend_is_the_same_unit() -> None:
    series = torch.linspace(0, 30, 4000) + torch.sin(torch.arange(4000) / 5)
    windows = series.unfold(0, 24, 1)
    assert prepared_differently([windows[:3000]], [windows[3000:]]) is None


def test_one_giant_row_is_no_other_unit() -> None:
    rows = torch.randn(200, 20)
    ruined = rows.clone()
    ruined[3] = 1e8
    assert prepared_differently([ruined], [rows]) is None


def test_masks_and_sparse_inputs_are_left_alone() -> None:
    mask = (torch.rand(100, 1, 8, 8) < 0.02).float()
    assert prepared_differently([mask], [mask.flip(0)]) is None
    assert prepared_differently([torch.zeros(100, 20)], [torch.randn(100, 20)]) is None


class Validated(Task):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize("alike", [True, False])
def test_sanity_check_names_it(alike: bool) -> None:
    labels = torch.tensor(load_digits().target)
    module = Validated(mlp(10, 64), lambda self, b: cross_entropy(self, (b[0].flatten(1), b[1])))
    held = load((PIXELS if alike else STANDARD(PIXELS))[900:1000], labels[900:1000], shuffle=False)
    found = checks(module, load(PIXELS[:900], labels[:900]), val_dataloaders=held)
    assert (NAME in found) != alike
