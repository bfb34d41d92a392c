from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_tricks.collapse import assignments


@pytest.mark.parametrize(
    ("rows", "normal"),
    [
        ([[0.2, 0.8], [1.0, 0.0]], True),
        ([[1.0, 0.0], [0.0, 1.0]], True),  # one-hot
        ([[1.0 + 1e-6, -1e-6], [0.0, 1.0]], True),  # straight-through
        ([[0.2, 0.8], [1.0, 1.0]], False),
        ([[0.5, 1.5], [-0.5, 1.5]], False),
        ([[0.0, 0.0], [0.0, 0.0]], False),
    ],
)
def test_rows_are_probabilities_where_all_are_positive_and_sum_to_one(rows: list[list[float]], normal: bool) -> None:
    given = torch.tensor(rows)
    p, told = assignments.as_probabilities(given)
    assert bool(told) is normal
    torch.testing.assert_close(p, given.clamp(0, 1) if normal else given.softmax(1), atol=1e-5, rtol=0)


def test_probabilities_in_bfloat16_are_probabilities() -> None:
    rows = torch.randn(500, 300).softmax(1).bfloat16()
    assert bool(assignments.as_probabilities(rows.float())[1])


def test_whole_numbers_are_taken_before_vectors_and_vectors_before_nothing() -> None:
    vectors, codes = torch.randn(2, 3, 4), torch.randint(9, (2, 3))
    for output in ((vectors, codes, torch.tensor(0.1)), {"z": vectors, "codes": codes}, [vectors, {"codes": codes}]):
        assert assignments.assignments_of(output) is codes or torch.equal(assignments.assignments_of(output), codes)  # type: ignore[arg-type]
    found = assignments.assignments_of((torch.tensor(0.5), vectors))
    assert found is not None and found.shape == vectors.shape
    assert assignments.assignments_of((torch.tensor(3), torch.zeros(4, dtype=torch.bool), torch.zeros(5))) is None
    assert assignments.assignments_of("text") is None


@pytest.mark.parametrize(
    ("numbers", "mask"),
    [
        (torch.nn.functional.one_hot(torch.arange(6) % 3, 4), True),
        (torch.tensor([[0, 1, 0], [0, 0, 0]]), True),  # one token was dropped
        (torch.zeros(5, 4, dtype=torch.long), False),
        (torch.randint(50, (20, 8), generator=torch.Generator().manual_seed(0)), False),
        (torch.tensor([[0, 1], [1, 0]]), False),  # the two experts of each token
        (torch.arange(5), False),
        (torch.zeros(0, 4, dtype=torch.long), False),
        (torch.zeros(3, 4, dtype=torch.bool), True),
    ],
)
def test_one_hot_rows_of_whole_numbers_are_told_from_numbers(numbers: Tensor, mask: bool) -> None:
    assert assignments.is_mask(numbers) is mask


def test_wide_rows_are_bounded() -> None:
    assert assignments.kept_rows(torch.zeros(10_000, 8)).shape == (2048, 8)
    assert assignments.kept_rows(torch.zeros(100, 2**17)).shape == (64, 2**17)
