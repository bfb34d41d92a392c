"""Measures of generated samples."""

from __future__ import annotations

import torch

from lightning_tricks.collapse import generation_metrics


def test_fingerprints_survive_their_way_through_float32() -> None:
    grams = torch.randint(-(2**40), 2**40, (5000, 4), generator=torch.Generator().manual_seed(0))
    prints = generation_metrics._hash(grams)
    assert torch.equal(generation_metrics._fingerprints(generation_metrics._pieces(prints)), prints)
    assert len(prints.unique()) == 5000
    assert len(generation_metrics._hash(torch.tensor([[1, 2], [2, 1], [0, 1], [1, 0], [0, 0]])).unique()) == 5
