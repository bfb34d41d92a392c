from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_tricks import AGC, AdaGC, AutoClip, ClipValue, ZClip
from tests.distributed import jobs

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("rows", [1, 7])  # with one row, a rank holds nothing
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_of_shards_are_those_of_the_whole_tensors(
    both_ranks: Any, p: float, rows: int, size: float, dtype: torch.dtype
) -> None:
    for ours, expected in both_ranks(jobs.sharded_norms, p, rows, size, dtype):
        assert ours == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-13, abs=0)


def same_rows(got: list[Any], expected: list[Any]) -> None:
    assert [step for step, _ in got] == [step for step, _ in expected]
    for (_, ours), (_, theirs) in zip(got, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=2e-4, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("strategy", ["fsdp2", "ddp"])
@pytest.mark.parametrize(
    ("rule", "per"),
    [(4.5, "model"), (0.5, "layer"), (0.5, "group"), (ClipValue(0.02), "model"), (AutoClip(40.0), "model"),
     (ZClip(warmup=3, z=0.5), "model"), (AdaGC(warmup=3), "model")],
    ids=repr,
)  # fmt: skip
def test_two_processes_give_the_norms_and_weights_of_one(both_ranks: Any, strategy: str, rule: Any, per: str) -> None:
    alone = jobs.run("single", "sgd", rule, per)
    for got in both_ranks(jobs.run, strategy, "sgd", rule, per):
        torch.testing.assert_close(got["weights"], alone["weights"], rtol=1e-4, atol=2e-5)
        same_rows(got["rows"], alone["rows"]) if got["rows"] else None
        assert got["updates"] == alone["updates"]


@pytest.mark.parametrize(
    ("strategy", "optimizer"), [("fsdp2", "adamw fused"), ("ddp", "adamw fused"), ("ddp", "sgd fused")]
)  # torch 2.13 has no fused SGD on sharded parameters
def test_a_fused_optimizer_folds_the_clip_on_shards_too(both_ranks: Any, strategy: str, optimizer: str) -> None:
    alone = jobs.run("single", optimizer, 1.0)
    for got in both_ranks(jobs.run, strategy, optimizer, 1.0):
        torch.testing.assert_close(got["weights"], alone["weights"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strategy", ["fsdp2", "ddp"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_a_nan_on_one_rank_is_skipped_or_raised_by_both(both_ranks: Any, strategy: str, optimizer: str) -> None:
    first, second = both_ranks(jobs.run, strategy, optimizer, 4.5, "model", 1)
    assert first["updates"] == second["updates"] == {"version": 1, "attempted": [12], "applied": [11]}
    assert first["weights"].isfinite().all()
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    for text in both_ranks(jobs.run_raising, strategy, optimizer, 1):
        assert text.startswith("NonFiniteError: GradientClip(nonfinite='raise'): step 3:")


@pytest.mark.parametrize("strategy", ["fsdp2", "ddp"])
def test_a_skip_on_the_device_is_the_same_on_both_ranks(both_ranks: Any, strategy: str) -> None:
    on_host = both_ranks(jobs.run, strategy, "adamw fused", 4.5, "model", 1)
    on_device = both_ranks(jobs.run_as_on_a_gpu, strategy, "adamw fused", 4.5, 1)
    for ours, theirs in zip(on_device, on_host, strict=True):
        assert ours["updates"] == theirs["updates"]
        torch.testing.assert_close(ours["weights"], theirs["weights"], rtol=1e-4, atol=1e-5)


def test_ddp_pays_no_collective_for_the_tricks(both_ranks: Any) -> None:
    with_tricks = both_ranks(jobs.run, "ddp", "sgd", 1.0)
    without = both_ranks(jobs.run_without, "ddp", "sgd")
    assert [r["collectives"] for r in with_tricks] == [r["collectives"] for r in without]


def test_agc_on_a_sharded_model_is_refused_by_name(both_ranks: Any) -> None:
    for text in both_ranks(jobs.refused, "fsdp2", AGC()):
        assert "AGC needs whole output units, and this model is sharded" in text
