from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import scipy.stats

from tests.distributed import jobs

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


def test_values_are_those_of_all_data_and_both_act_alike(both_ranks: Any) -> None:
    one, two = both_ranks(jobs.detected, "healthy", ())
    assert one["histories"] == two["histories"]
    assert one["weights"] == two["weights"]
    whole = jobs.detected_alone("healthy")
    for name, value in whole.items():
        # (each process looks for neighbours among its own samples, which are half as many)
        if name in ("_by_network", "_by_reference"):
            continue
        # targets are dealt out within the batches of a process, which are halves of the whole ones
        exact = {} if name in ("_lately", "_score", "_spread", "association") else {"rel": 1e-3, "abs": 1e-4}
        assert one["histories"]["PredictionCollapse"][name] == pytest.approx(value, **(exact or {"rel": 0.1})), name


@pytest.mark.parametrize("action", ["stop", "raise", "rollback"])
def test_actions_are_taken_on_both_at_the_same_step(both_ranks: Any, action: str) -> None:
    one, two = both_ranks(jobs.detected, action, ())
    assert one["seen"] == two["seen"]
    assert one["error"] == two["error"]
    assert one["weights"] == two["weights"]
    if action == "raise":
        assert "AlarmError" in one["error"]
    if action == "rollback":
        assert one["rollbacks"] == two["rollbacks"] == 1


@pytest.mark.parametrize("form", ["numbers", "exceeded", "rows"])
def test_ranks_that_choose_other_entries_count_together(both_ranks: Any, form: str) -> None:
    """One sees numbers up to 2, the other up to 8: the table must be as long on both."""
    one, two = both_ranks(jobs.chosen, "policy", form)
    assert repr(one["values"]) == repr(two["values"])
    counts = numpy.bincount(one["numbers"] + two["numbers"], minlength=9)
    values = one["values"]
    assert values["entries"] == 9 and values["samples"] == 256
    assert values["perplexity"] == pytest.approx(math.exp(scipy.stats.entropy(counts)), rel=1e-4)
    assert values["reward"] == 0.5
