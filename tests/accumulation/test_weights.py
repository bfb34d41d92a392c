from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_tricks import TrickError
from lightning_tricks.accumulation.weights import equal, samples, tokens

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


def test_without_labels_the_mask_tells() -> None:
    assert int(tokens({"attention_mask": torch.tensor([[1, 1], [1, 0]])})) == 3


@pytest.mark.parametrize(
    ("function", "batch"), [(samples, "text"), (samples, torch.zeros(())), (tokens, (X,)), (tokens, {})]
)
def test_what_cannot_be_weighed_says_so(function: Any, batch: Any) -> None:
    with pytest.raises(TrickError, match="Pass weight=, a function of the batch"):
        function(batch)
