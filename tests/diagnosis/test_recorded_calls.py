from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.attention_calls import AttentionMasks
from lightning_tricks.diagnosis.loss_calls import LossCalls
from lightning_tricks.diagnosis.recorded_calls import MOST_CALLS
from lightning_tricks.diagnosis.step_calls import Draws, Lookups

MANY = range(MOST_CALLS + 3)


def test_lookups_and_draws_are_copied_and_not_more_than_so_many_are_kept() -> None:
    table = nn.Embedding(5, 3)
    with Lookups() as lookups, Draws() as draws:
        for _ in MANY:
            table(torch.tensor([[1, 2], [3, 0]]))
            torch.randn(2).zero_()
    assert len(lookups.found) == len(draws.found) == MOST_CALLS
    assert all(bool((noise != 0).all()) for noise in draws.found)


def test_what_a_loss_is_given_is_copied_and_not_more_than_so_many_calls_are_kept() -> None:
    x: Tensor = torch.zeros(3)
    with LossCalls() as calls:
        for _ in MANY:
            F.l1_loss(x, torch.ones(3))
            x.add_(1.0)
    assert len(calls.found) == MOST_CALLS
    assert calls.found[2].output.tolist() == [2.0, 2.0, 2.0]


def test_not_more_than_so_many_masks_are_kept() -> None:
    mask, x = torch.ones(3, 3, dtype=torch.bool).tril(), torch.zeros(2, 3, 4)
    with AttentionMasks() as masks:
        for _ in MANY:
            F.scaled_dot_product_attention(x, x, x, mask)
    assert len(masks.found) == MOST_CALLS
