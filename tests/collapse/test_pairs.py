from __future__ import annotations

import pytest
import torch

from lightning_tricks.collapse.pairs import paired


@pytest.mark.parametrize(
    ("output", "target", "rows"),
    [
        ((6,), (6,), (6, 1)),
        ((6, 1), (6,), (6, 1)),
        ((6,), (6, 1), (6, 1)),
        ((6, 3), (6, 3), (6, 3)),
        ((2, 5, 3), (2, 5, 3), (10, 3)),
        ((2, 5, 1), (2, 5), (10, 1)),
        ((2, 3, 4, 4), (2, 3, 4, 4), (32, 3)),
        ((2, 1, 4, 4), (2, 4, 4), (32, 1)),
    ],
)
def test_outputs_and_targets_of_one_size_become_rows(
    output: tuple[int, ...], target: tuple[int, ...], rows: tuple[int, int]
) -> None:
    values = torch.randn(target)
    pair = paired(values.reshape(output), values)
    assert pair is not None
    assert pair[0].shape == pair[1].shape == rows
    assert torch.equal(*pair)


@pytest.mark.parametrize(("output", "target"), [((6, 3), (6,)), ((6, 3), (5, 3)), ((6, 6), (6,)), ((), ()), ((6,), ())])
def test_others_do_not(output: tuple[int, ...], target: tuple[int, ...]) -> None:
    assert paired(torch.zeros(output), torch.zeros(target)) is None


def test_quantiles_are_asked_for() -> None:
    for target in (torch.zeros(6), torch.zeros(6, 1)):
        pair = paired(torch.zeros(6, 3), target, quantiles=True)
        assert pair is not None
        assert pair[1].shape == (6, 1)
    assert paired(torch.zeros(6, 3), torch.zeros(5), quantiles=True) is None
