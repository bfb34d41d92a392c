from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from lightning_tricks import TrickError
from lightning_tricks.accumulation.weights import as_weight, equal, read_samples, samples, tokens

Pair = namedtuple("Pair", "x y")


@dataclass
class Named:
    note: str
    x: Tensor


X, Y = torch.zeros(3, 5), torch.tensor([[1, -100], [2, 3], [-100, -100]])


@pytest.mark.parametrize("batch", [X, (X, Y), [X], {"a": "text", "x": X}, Pair(X, Y), Named("n", X), {"deep": [(X,)]}])
def test_samples_are_the_first_dimension(batch: Any) -> None:
    assert samples(batch) == 3
    assert equal(batch) == 1


@pytest.mark.parametrize("batch", [(X, Y), [Y, X], {"labels": Y, "attention_mask": torch.ones(3, 2)}])
def test_tokens_are_the_labels_that_count(batch: Any) -> None:
    assert int(tokens(batch)) == 3


@pytest.mark.parametrize("negative", [-1, -100, -7])
def test_all_negative_labels_are_left_out(negative: int) -> None:
    assert int(tokens({"labels": Y.masked_fill(Y < 0, negative)})) == 3


def test_labels_may_be_an_attribute() -> None:
    @dataclass(slots=True)
    class Batch:
        labels: Tensor

    assert int(tokens(Batch(Y))) == 3


def test_a_mask_is_counted_exactly_also_in_half_precision() -> None:
    for dtype in (torch.bool, torch.bfloat16, torch.float16, torch.int64):
        assert int(tokens({"attention_mask": torch.ones(1, 70001, dtype=dtype)})) == 70001


@pytest.mark.parametrize(
    ("given", "weight"),
    [(3, 3), (2.5, 2.5), (torch.tensor([4]), 4), (torch.tensor(0.5, dtype=torch.bfloat16), 0.5), (numpy.int64(3), 3.0)],
)
def test_a_weight_on_the_host_is_a_number(given: Any, weight: float) -> None:
    assert as_weight(given) == weight
    assert isinstance(as_weight(given), (int, float))


def test_a_weight_on_a_device_stays_there_and_is_not_added_up_in_half_precision(monkeypatch: Any) -> None:
    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        weight = as_weight(torch.ones(1, dtype=dtype))
        assert isinstance(weight, Tensor) and weight.dtype == torch.float32 and weight.ndim == 0
    assert as_weight(torch.tensor(3)).dtype == torch.int64  # type: ignore[union-attr]


@pytest.mark.parametrize("given", [-1, float("nan"), torch.inf, torch.ones(2), "three", None, torch.tensor(-2.0)])
def test_what_is_no_weight_is_refused_by_name(given: Any) -> None:
    with pytest.raises(TrickError, match="a micro-batch must weigh a number >= 0"):
        as_weight(given)


def test_how_a_batch_was_read_decides_about_one_that_can_be_read_in_two_ways() -> None:
    rows = [{"image": torch.zeros(3, 8, 8), "boxes": torch.zeros(3, 4)}] * 2
    assert read_samples(rows, records=True).count == 2


def test_without_labels_the_mask_tells() -> None:
    assert int(tokens({"attention_mask": torch.tensor([[1, 1], [1, 0]])})) == 3


@pytest.mark.parametrize(
    ("function", "batch"),
    [
        (samples, "text"),
        (samples, torch.zeros(())),
        (samples, {"x": X, "w": torch.ones(7)}),
        (tokens, (X,)),
        (tokens, {}),
    ],
)
def test_what_cannot_be_weighed_says_so(function: Any, batch: Any) -> None:
    with pytest.raises(TrickError, match="Pass weight=, a function of the batch"):
        function(batch)
