from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.diagnosis.culprit import Culprit, first_broken_module, giant_loss, waits_for_others


def run_of(module: nn.Module, *, automatic: bool = True, world_size: int = 1, sharded: bool = False) -> Any:
    module.automatic_optimization = automatic  # type: ignore[assignment]
    trainer = SimpleNamespace(lightning_module=module, world_size=world_size)
    return SimpleNamespace(trainer=trainer, views=[SimpleNamespace(sharded=sharded)])


def after(losses: list[float], batches: list[torch.Tensor], **kind: Any) -> Culprit:
    culprit = Culprit()
    culprit._on_start(run_of(nn.Linear(1, 1), **kind), None)
    for i, (loss, batch) in enumerate(zip(losses, batches, strict=True)):
        culprit.on_train_batch_start(None, None, batch, i)
        culprit.on_before_backward(None, None, torch.tensor(loss))
    return culprit


SOUND = torch.tensor([[1.0], [2.0], [1.5]])
GIANT = torch.tensor([[1.0], [1e9], [1.5]])


def test_the_row_of_the_first_giant_loss_is_named_and_measured() -> None:
    culprit = after([1.0, 99.0, 101.0, 1e6], [SOUND, SOUND, GIANT, SOUND])
    assert culprit.text.startswith("batch 2 made the first giant loss, 101: row 1 of the batch")
    assert culprit.measure(torch.device("cpu")).shared[0].tolist() == [1.0]


def test_a_giant_loss_without_an_outlying_row_names_the_batch_alone() -> None:
    culprit = after([1.0, 101.0], [SOUND, SOUND])
    assert culprit.text == "batch 1 made the first giant loss, 101"
    assert culprit.measure(torch.device("cpu")).shared[0].tolist() == [0.0]


def test_with_manual_optimization_losses_are_of_several_things_and_none_is_giant() -> None:
    assert after([1.0, 1e6], [SOUND, GIANT], automatic=False).text == ""


def test_a_batch_that_is_not_finite_is_the_culprit_and_stays_it() -> None:
    broken = torch.tensor([[1.0], [math.nan]])
    culprit = after([1.0, math.nan, math.nan], [SOUND, broken, SOUND])
    assert culprit.text == "the batch itself holds NaN or inf: batch 1, row 1 of the batch holds NaN or inf"


def test_broken_weights_name_the_batch_before() -> None:
    module = nn.Linear(1, 1)
    culprit = Culprit()
    culprit._on_start(run_of(module), None)
    for i, (loss, batch) in enumerate([(1.0, SOUND), (1.5, GIANT), (math.nan, SOUND)]):
        culprit.on_train_batch_start(None, None, batch, i)
        if i == 2:
            nn.init.constant_(module.bias, math.nan)
        culprit.on_before_backward(None, None, torch.tensor(loss))
    assert culprit.text.startswith(
        "weights or buffers are not finite, first 'bias' (1 in all), from batch 2 on; in the"
    )
    assert "row 1" in culprit.text


def test_what_is_giant_follows_the_usual_losses_once_there_was_one() -> None:
    culprit = after([1.0], [SOUND])
    culprit.follow([50.0, -60.0])
    culprit.on_before_backward(None, None, torch.tensor(5999.0))
    assert culprit.text == ""
    culprit.on_before_backward(None, None, torch.tensor(6001.0))
    assert "giant loss" in culprit.text
    blind = Culprit()
    blind.follow([1.0])
    assert blind._giant == math.inf, "on a device whose losses are not read nothing is giant"


def test_its_text_is_its_state_and_a_rollback_forgets_it() -> None:
    first, second = after([1.0, 101.0], [SOUND, GIANT]), Culprit()
    second._on_start(run_of(nn.Linear(1, 1)), first._trick_state())
    assert second.text == first.text != ""
    second._rolled_back(None)  # type: ignore[arg-type]
    assert second._trick_state() == {"culprit": ""}
    first._cleanup(None)  # type: ignore[arg-type]
    assert first.batch is None


@pytest.mark.parametrize(
    ("module", "world_size", "sharded", "waits"),
    [
        (nn.Linear(1, 1), 1, True, False),
        (nn.Linear(1, 1), 2, True, True),
        (nn.Linear(1, 1), 2, False, False),
        (nn.Sequential(nn.SyncBatchNorm(1)), 2, False, True),
    ],
)
def test_a_forward_pass_waits_for_others_with_shards_and_synchronised_norms(
    module: nn.Module, world_size: int, sharded: bool, waits: bool
) -> None:
    run = run_of(module, world_size=world_size, sharded=sharded)
    assert waits_for_others(run) is waits
    if waits:
        assert first_broken_module(run, None, 0) == ""


def test_a_step_that_cannot_be_run_again_names_no_module() -> None:
    assert first_broken_module(run_of(nn.Linear(1, 1), automatic=False), None, 0) == ""


def test_giant_is_a_hundred_times_the_largest_usual_loss() -> None:
    assert giant_loss([1.0, -3.0, math.inf]) == 300.0
    assert giant_loss([]) == pytest.approx(1e-10)
