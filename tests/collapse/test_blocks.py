from __future__ import annotations

import pytest
import torch

from lightning_tricks.collapse.association import permutation_test
from lightning_tricks.collapse.blocks import Blocks

PARTS = {
    "equal": torch.arange(96) // 24,
    "ragged": torch.tensor([0] * 40 + [1] * 40 + [2] * 3 + [4] * 13),
    "mixed up": torch.arange(96) % 5,
    "one": torch.zeros(96),
    "single rows": torch.arange(96),
}


@pytest.mark.parametrize("name", PARTS)
def test_every_row_is_in_one_block_with_all_others_of_its_part(name: str) -> None:
    part = PARTS[name]
    blocks = Blocks.of(part)
    there = torch.ones_like(blocks.places, dtype=torch.bool) if blocks.there is None else blocks.there
    assert blocks.places[there].sort().values.tolist() == list(range(96))
    pairs = int((part[:, None] == part).sum())
    assert int(blocks.together(torch.ones(96, dtype=torch.bool)).sum()) == pairs
    values = torch.randn(96, 96)
    picked = values[blocks.places[:, :, None], blocks.places[:, None]]
    assert torch.equal(blocks.pairs(values), picked)


def test_parts_are_blocks_only_where_that_is_less_work() -> None:
    assert Blocks.of(PARTS["equal"]).places.shape == (4, 24)
    # a long part beside many short ones: the blocks of the short ones would be as long
    assert Blocks.of(torch.tensor([0] * 50 + list(range(1, 47)))).places.shape == (1, 96)
    assert Blocks.of(torch.zeros(0, dtype=torch.int64)).places.shape == (1, 0)


@pytest.mark.parametrize("name", PARTS)
def test_what_is_computed_within_parts_does_not_depend_on_the_blocks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    part, keep = PARTS[name], torch.rand(96) > 0.1
    similarity = torch.randn(96, 96, dtype=torch.float64)
    found = permutation_test(similarity, part, keep)
    monkeypatch.setattr(Blocks, "of", Blocks.whole)
    torch.testing.assert_close(found, permutation_test(similarity, part, keep))


def test_a_pair_of_rows_of_two_parts_is_looked_at_by_nobody() -> None:
    part, keep = PARTS["equal"], torch.ones(96, dtype=torch.bool)
    similarity = torch.randn(96, 96)
    spoilt = torch.where(part[:, None] == part, similarity, torch.nan)
    assert permutation_test(spoilt, part, keep) == permutation_test(similarity, part, keep)
