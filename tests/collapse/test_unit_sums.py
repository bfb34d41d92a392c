from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_tricks.collapse.unit_sums import add_units, measured_units, silent_checks


def test_units_are_followed_over_calls_by_their_largest_output() -> None:
    gathered: dict[str, Tensor] = {}
    add_units(gathered, "relu", torch.tensor([[0.0, 0.0, 1.0]]).repeat(20, 1), 0.0, torch.inf)
    add_units(gathered, "relu", torch.tensor([[0.0, 2.0, 0.0]]).repeat(20, 1), 0.0, torch.inf)
    add_units(gathered, "image", torch.zeros(2, 4, 3, 3), 0.0, torch.inf)
    add_units(gathered, "tanh", torch.tensor([[0.99, -1.0, 0.0, 0.1]]), -1.0, 1.0)
    layers, shares = measured_units(gathered, silent_checks({}, gathered))
    rows = dict(zip(layers, shares.reshape(-1, 3).tolist(), strict=True))
    assert rows["relu/3"][0] == pytest.approx(1 / 3), "sparse is not dead"
    assert rows["image/4"][0] == 1.0
    assert rows["tanh/4"][2] == 0.5
    assert rows["image/4"][1] == 1.0, "a silent layer is dormant"


def test_units_of_a_sparse_code_are_dead_after_eight_silent_checks_and_others_after_one() -> None:
    """Each check of the code fires another eighth of its 64 units, twice; units 56 to 63 never fire."""
    silent: dict[str, Tensor] = {}
    seen = []
    for check in range(12):
        gathered: dict[str, Tensor] = {}
        code, dense = torch.zeros(512, 64), torch.rand(512, 64)
        first = 8 * (check % 7)
        code[:2, first : first + 8] = 1.0
        dense[:, 32:] = 0.0
        add_units(gathered, "code", code, 0.0, torch.inf)
        add_units(gathered, "dense", dense, 0.0, torch.inf)
        silent = silent_checks(silent, gathered)
        layers, shares = measured_units(gathered, silent)
        seen.append(dict(zip(layers, shares.reshape(-1, 3)[:, 0].tolist(), strict=True)))
    assert [row["code/64"] for row in seen] == [0.0] * 7 + [0.125] * 5
    assert {row["dense/64"] for row in seen} == {0.5}


def test_a_code_that_stops_altogether_is_dead_at_once() -> None:
    gathered: dict[str, Tensor] = {}
    add_units(gathered, "code", torch.zeros(512, 8), 0.0, torch.inf)
    assert measured_units(gathered, silent_checks({}, gathered))[1][0] == 1.0
