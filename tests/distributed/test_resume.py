from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import jobs

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


def test_two_processes_resume_as_if_nothing_had_happened(both_ranks: Any, tmp_path: Path) -> None:
    one, two = both_ranks(jobs.resumed_exactly, str(tmp_path))
    assert one[0] == two[0] == one[1] == two[1]
    assert one[2] == two[2] and "gradients of each process would have to be saved" in one[2]


def test_the_first_process_alone_holds_the_states_of_all_and_equal_ones_once(both_ranks: Any, tmp_path: Path) -> None:
    for seeds, parts in (([3, 3], 0), ([3, 4], 1)):
        (one, right), (two, also_right) = both_ranks(jobs.state_of_differently_seeded, seeds, str(tmp_path))
        assert two == {}, "the second process writes no checkpoint"
        assert right and also_right, "each process finds its own numbers"
        changed = one["others"][0].get("changed", ())
        assert len(one["others"]) == 1 and bool(changed) == bool(parts)
