from __future__ import annotations

from typing import Any

import pytest

from tests.collapse.problems import ALL, LATENT, data, make
from tests.distributed import jobs

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


@pytest.mark.parametrize("border", [20, 60], ids=["uneven", "one rank empty"])
@pytest.mark.parametrize("name", [*ALL, *LATENT])
def test_two_processes_give_the_value_of_all_data(both_ranks: Any, name: str, border: int) -> None:
    metric = make(name)
    metric.update(*data(name))
    wanted = float(metric.compute())
    assert both_ranks(jobs.metric_value, name, (border,)) == pytest.approx([wanted, wanted], rel=1e-9, abs=1e-9)
