from __future__ import annotations

from typing import Any

import pytest

from tests.distributed import jobs

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_all_ranks_make_the_same_islands(both_ranks: Any, bad_rank: int) -> None:
    one, two = both_ranks(jobs.islands, bad_rank, "sgd")
    assert one[0] == two[0]
    assert one[0][0] == "net.0"
    assert one[2] == two[2]
    assert ("forward overflow", "net.0") in one[1]
    assert ("forward overflow", "net.0") in two[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
@pytest.mark.parametrize("bad_rank", [0, 1])
def test_a_failure_ends_all_ranks_at_the_same_attempt(both_ranks: Any, bad_rank: int, optimizer: str) -> None:
    for text in both_ranks(jobs.guarded, bad_rank, optimizer):
        assert text.startswith("5 NonFiniteError: LossScaleGuard: 5 attempts in a row"), text


def test_auto_with_a_fused_optimizer_is_refused(both_ranks: Any) -> None:
    with pytest.raises(AssertionError, match="'auto' with a fused optimizer on several processes"):
        both_ranks(jobs.islands, 0, "adamw fused")
