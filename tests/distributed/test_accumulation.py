from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.accumulation.problems import big_batches, errors, ragged
from tests.distributed import jobs

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]

SIZES = ((8, 3, 5, 8, 2), (4, 6, 8, 1, 7))


def oracle(windows: list[int]) -> list[torch.Tensor]:
    """One process, plain torch, the batches of both ranks put together."""
    data, n = ragged([size for row in SIZES for size in row]), len(SIZES[0])
    together = [tuple(torch.cat(part) for part in zip(data[i], data[n + i], strict=True)) for i in range(n)]
    return big_batches(together, windows)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("arguments", "windows"),
    [({"batches": 2}, [2, 2, 1]), ({"batches": {0: 1, 2: 2}}, [1, 1, 2, 1]), ({"target_batch_size": 20}, [2, 2, 1])],
    ids=str,
)
def test_uneven_ranks_give_the_gradient_of_the_one_big_batch(
    both_ranks: Any, strategy: str, arguments: dict[str, Any], windows: list[int]
) -> None:
    expected = oracle(windows)
    for got in both_ranks(jobs.accumulate, strategy, arguments, SIZES, None, ""):
        assert max(errors(got["gradients"], expected)) <= 1e-6
        if got["norms"]:  # only rank 0 logs
            assert list(got["norms"].values()) == pytest.approx([float(g.norm()) for g in expected], rel=1e-5)
            assert sum(got["sizes"]) == sum(map(sum, SIZES))


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_one_rank_alone_runs_out_of_memory(both_ranks: Any, where: str, batches: int, precision: str) -> None:
    windows = {1: [1] * 5, 2: [2, 2, 1]}[batches]
    arguments = {"batches": batches, "on_oom": "split"}
    first, second = both_ranks(jobs.accumulate, "ddp", arguments, SIZES, 1, where, precision)
    for got in (first, second):
        assert max(errors(got["gradients"], oracle(windows))) <= (1e-6 if precision == "32-true" else 5e-3)
    assert first["tries"] == 5, "the rank with room tries each micro-batch once"
    assert second["tries"] > 10


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("synced", "'norm' is a SyncBatchNorm, which waits for all processes"),
        ("sharded", "sharded parameters (FSDP2) communicate while they run backward"),
        ("finder", "LRFinder does not work with ModelParallelStrategy"),
    ],
)
def test_what_cannot_work_on_several_processes_is_refused_by_name(both_ranks: Any, kind: str, text: str) -> None:
    for message in both_ranks(jobs.refusal, kind):
        assert text in message
