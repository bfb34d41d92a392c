from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed import jobs

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


def test_all_ranks_find_the_same_rate_and_train_as_without_it(both_ranks: Any) -> None:
    first, second = both_ranks(jobs.find_rate, True)
    assert first["losses"] == second["losses"] and len(first["losses"]) > 20
    assert first["suggestion"] == second["suggestion"] is not None
    for got, alone in zip((first, second), both_ranks(jobs.find_rate, False), strict=True):
        assert torch.equal(got["weights"], alone["weights"])
