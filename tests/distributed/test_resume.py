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
