from __future__ import annotations

import torch

from lightning_tricks.precision.measuring import half_of


def test_half_of_a_batch_is_the_first_half_of_its_samples() -> None:
    half = half_of({"x": torch.arange(6).reshape(3, 2), "y": torch.arange(6), "scale": torch.tensor(2.0), "n": 3})
    assert half["x"].tolist() == [[0, 1]]
    assert half["y"].tolist() == [0, 1]
    assert (float(half["scale"]), half["n"]) == (2.0, 3)
    assert half_of(torch.zeros(1, 3)) is None
    assert half_of((torch.zeros(4), torch.zeros(6))) is None
    assert half_of("words") is None
