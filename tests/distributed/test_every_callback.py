"""Every public callback, found by introspection, on two processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed import everyone
from tests.distributed.everyone import UPDATES
from tests.matrix import REFUSED_UNDER_FSDP2
from tests.together.problems import CALLBACKS

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]

CHANGES_WEIGHTS = {"FP32Islands", "GradientAccumulation", "GradientClip", "LRFinder", "LRSchedule"}
FROM_SUMS = {
    "DeadUnits",
    "PosteriorCollapse",
    "PredictionCollapse",
    "RepresentationCollapse",
    "UsageCollapse",
}  # other detectors average over processes
TOLERANCE = {"FP32Islands": 3e-3, "LossScaleGuard": 3e-3}  # in 16 bit two halves of a batch round in another way


def assert_alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Decisions are the same on both ranks."""
    assert torch.equal(one["weights"], two["weights"])
    assert one["clock"] == two["clock"] == {"version": 1, "attempted": [UPDATES], "applied": [UPDATES]}
    for part in ("logged", "histories", "verdicts"):
        assert repr(one[part]) == repr(two[part])  # (NaN is NaN)


def assert_as_alone(name: str, got: dict[str, Any]) -> None:
    alone = everyone.of(name, "single")
    tolerance = TOLERANCE.get(name, 1e-4)
    torch.testing.assert_close(got["weights"], alone["weights"], rtol=tolerance, atol=tolerance)
    assert got["logged"].keys() == alone["logged"].keys()
    for ours, theirs in zip(got["histories"], alone["histories"], strict=True):
        assert [step for step, _ in ours] == [step for step, _ in theirs] != []
        for (_, measured), (_, expected) in zip(ours, theirs, strict=True):
            assert measured.keys() == expected.keys()
            # (neighbours are looked for among the samples of a process)
            for key in expected.keys() - {"_by_network", "_by_reference"} if name in FROM_SUMS else ():
                # (targets are dealt out anew within the batches of each process, so that these differ a little)
                near = 0.2 if key in ("_lately", "_score", "association", "_spread") else 2e-3
                assert measured[key] == pytest.approx(expected[key], rel=near, abs=1e-4), key


@pytest.mark.parametrize("name", CALLBACKS)
def test_trains_under_ddp_as_one_process_on_all_data(both_ranks: Any, name: str) -> None:
    one, two = both_ranks(everyone.of, name, "ddp")
    assert_alike(one, two)
    assert_as_alone(name, one)
    if name not in CHANGES_WEIGHTS:
        assert torch.equal(one["weights"], both_ranks(everyone.without, name, "ddp")[0]["weights"])


@pytest.mark.parametrize("name", CALLBACKS)
def test_trains_under_fsdp2_or_is_refused_by_name(both_ranks: Any, name: str) -> None:
    one, two = both_ranks(everyone.of, name, "fsdp2")
    if name in REFUSED_UNDER_FSDP2:
        assert one == two and one["at"] == 0
        assert one["refused"].startswith(f"{name} does not work with ModelParallelStrategy")
        return
    assert_alike(one, two)
    assert one["weights"].isfinite().all()
    assert_as_alone(name, one)
    if name not in CHANGES_WEIGHTS:
        assert torch.equal(one["weights"], both_ranks(everyone.without, name, "fsdp2")[0]["weights"])
