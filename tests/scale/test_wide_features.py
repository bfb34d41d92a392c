"""Detectors on layers of very many outputs: what they hold and make does not follow the width beyond a bound."""

from __future__ import annotations

import pytest
import torch

from lightning_tricks.collapse import sums
from tests.scale import wide

WIDE, VERY_WIDE = 131_072, 1_000_000
BATCH_BYTES = 4 * wide.BATCH
# bytes held for each number of the width: sums per unit, rows of a batch of 8, of which as many are kept as are bounded
HELD = {
    "DeadUnits": lambda width: 16 * width + 8,
    "GenerationDrift": lambda width: 4 * 64 * width + BATCH_BYTES * width + 2048,
    "ModeCollapse": lambda width: 200_000,
    "PosteriorCollapse": lambda width: 2 * 4 * width * max(32, 2**24 // width) + 2 * BATCH_BYTES * width,
    "PredictionCollapse": lambda width: 4 * width * max(128, 2**26 // width) + 20_000,
    "RepresentationCollapse": lambda width: 4 * 4096 * 512 + 8 * 512,
    "UsageCollapse": lambda width: 8 * width + 20,
}
# the largest tensor that is made, over that of the batch, which is as wide
LARGEST = {"PredictionCollapse": 17, "PosteriorCollapse": 17, "GenerationDrift": 9}


def check(name: str, width: int) -> None:
    held, largest, _, values = wide.measured(name, width)
    assert held <= HELD[name](width)
    assert largest <= LARGEST.get(name, 1.1) * BATCH_BYTES * width
    assert any(key.startswith("collapse/") for key in values), "a check was made"


@pytest.mark.parametrize("name", [name for name in wide.DETECTORS if name != "PredictionCollapse"])
def test_what_a_detector_holds_and_makes_is_bounded(name: str) -> None:
    check(name, WIDE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", wide.DETECTORS)
def test_what_a_detector_holds_and_makes_is_bounded_with_a_million_outputs(name: str) -> None:
    check(name, VERY_WIDE)


def test_rows_of_logits_are_kept_up_to_a_bound_that_follows_the_classes() -> None:
    assert [sums.most_rows(k, 128, 2**26) for k in (1000, 65_536, 131_072, 10**6)] == [67_108, 1024, 512, 128]


def test_hashing_keeps_scalar_products_as_a_projection_by_a_matrix_does() -> None:
    torch.manual_seed(0)
    rows = torch.randn(6, 100_000, dtype=torch.float64)
    rows[1] += rows[0]
    rows[2, ::64] += 5.0  # of numbers at regular places
    wanted = rows @ rows.T
    found = sums.hashed(rows, 4096)
    size = rows.square().sum(1).sqrt()
    assert ((found @ found.T - wanted).abs() / torch.outer(size, size)).max() < 0.1
    assert torch.equal(found, sums.hashed(rows, 4096))


def test_the_rank_of_very_wide_features_is_that_of_the_same_features_when_they_are_narrow() -> None:
    torch.manual_seed(0)
    narrow = torch.randn(512, 8, dtype=torch.float64) @ torch.randn(8, 512, dtype=torch.float64)
    spread = torch.zeros(512, sums.WIDEST + 512, dtype=torch.float64)
    spread[:, torch.randperm(spread.shape[1])[:512]] = narrow
    ranks = [torch.linalg.matrix_rank(sums.narrowed(x)).item() for x in (narrow, spread)]
    assert ranks == [8, 8]
    one, other = (sums.narrowed(x).square().sum(1).sqrt() for x in (narrow, spread))
    assert ((one - other).abs() / one).max() < 0.2
