"""One rank alone sees something bad: both do the same at the same step, and neither waits for the other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks.diagnosis.culprit import waits_for_others
from tests.distributed import one_rank

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


def assert_alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    for part in ("seen", "weights", "clock", "rollbacks"):
        assert one[part] == two[part], part
    assert one["error"].split(":")[0] == two["error"].split(":")[0]


@pytest.mark.parametrize("bad_rank", [0, 1])
@pytest.mark.parametrize("action", ["stop", "raise", "rollback"])
def test_a_collapse_on_one_rank(both_ranks: Any, action: str, bad_rank: int) -> None:
    one, two = both_ranks(one_rank.collapsed, bad_rank, action)
    assert_alike(one, two)
    assert one["error"].startswith("AlarmError" if action == "raise" else "")
    assert one["error"] == two["error"]
    assert one["rollbacks"] >= 1 if action == "rollback" else one["seen"] < 16


@pytest.mark.parametrize("bad_rank", [0, 1])
@pytest.mark.parametrize(
    ("strategy", "action"),
    [("ddp", "stop"), ("ddp", "raise"), ("ddp", "rollback"), ("fsdp2", "stop"), ("fsdp2", "raise")],
)
def test_a_loss_that_is_nan_on_one_rank(both_ranks: Any, strategy: str, action: str, bad_rank: int) -> None:
    one, two = both_ranks(one_rank.diverged, bad_rank, action, strategy)
    assert_alike(one, two)
    assert one["clock"]["applied"][0] >= 5
    if action == "raise":
        assert one["error"].startswith("AlarmError: TrainingDoctor: non-finite values"), one["error"]
    assert one["rollbacks"] >= 1 if action == "rollback" else one["seen"] < 16


def test_no_rank_runs_a_forward_pass_alone_where_modules_wait_for_the_others() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SyncBatchNorm(2))  # torch's own needs a GPU to run
    for world, module, waits in ((1, net, False), (2, net, True), (2, net[0], False)):
        run: Any = SimpleNamespace(trainer=SimpleNamespace(world_size=world, lightning_module=module), views=[])
        assert waits_for_others(run) is waits


@pytest.mark.parametrize("bad_rank", [0, 1])
@pytest.mark.parametrize("on_failure", ["warn", "raise"])
def test_a_sanity_check_that_fails_on_one_rank(both_ranks: Any, bad_rank: int, on_failure: str) -> None:
    found = both_ranks(one_rank.unsound, bad_rank, on_failure)
    assert_alike(*found)
    if on_failure == "raise":
        assert "inputs matter" in found[bad_rank]["error"]
        assert "checks failed on another process" in found[1 - bad_rank]["error"]


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_what_a_checkpoint_cannot_hold_is_what_rank_0_would_write(both_ranks: Any, bad_rank: int) -> None:
    one, two = both_ranks(one_rank.unloadable, bad_rank)
    assert_alike(one, two)
    assert ("['root']" in one["error"]) == ("['root']" in two["error"]) == (bad_rank == 0)


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_a_loss_that_stays_nan_after_the_change_of_precision(both_ranks: Any, bad_rank: int) -> None:
    one, two = both_ranks(one_rank.fallen_back, bad_rank)
    assert_alike(one, two)
    assert one["seen"] == 2 + 3 + 3
    assert one["error"].startswith("NonFiniteError: LossScaleGuard: also in fp32")


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_a_first_batch_of_another_size(both_ranks: Any, bad_rank: int) -> None:
    one, two = both_ranks(one_rank.uneven, bad_rank)
    assert_alike(one, two)
    assert one["error"] == "" and repr(one["history"]) == repr(two["history"])
    assert all(values["fixed_batch_loss"] > 0 for values in one["history"])


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_a_training_step_that_one_rank_cannot_run_again(both_ranks: Any, bad_rank: int) -> None:
    one, two = both_ranks(one_rank.unfit, bad_rank)
    assert_alike(one, two)
    assert one["error"] == "" and one["seen"] == 16


@pytest.mark.parametrize("bad_rank", [0, 1])
@pytest.mark.parametrize("kind", ["RepresentationCollapse", "PredictionCollapse", "DeadUnits"])
def test_a_module_that_one_rank_does_not_call(both_ranks: Any, kind: str, bad_rank: int) -> None:
    one, two = both_ranks(one_rank.sparse, bad_rank, kind)
    assert_alike(one, two)
    assert one["error"] == ""


@pytest.mark.parametrize("name", ["LRFinder", "SanityCheck", "TrainingDoctor"])
def test_a_dry_run_leaves_the_buckets_of_ddp_as_they_are(both_ranks: Any, name: str) -> None:
    """They are arranged anew at the first averaging, for good; sums in another order are others."""
    without, found = both_ranks(one_rank.tried_before, 0, "nothing"), both_ranks(one_rank.tried_before, 0, name)
    for one, two in zip(without, found, strict=True):
        assert one["weights"] == two["weights"]
        assert one["last"] == two["last"], "and as many iterations were counted"
