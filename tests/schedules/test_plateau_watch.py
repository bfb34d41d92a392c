from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tricks import Plateau, TrickError
from lightning_tricks.schedules.plateau_watch import PlateauWatch, shown_metric, shown_what_came_late

RULE = Plateau("loss", patience=1, factor=0.5)


def fake(metrics: dict[str, float], epoch: int = 0, every: int | None = 1) -> Any:
    return SimpleNamespace(world_size=1, current_epoch=epoch, callback_metrics=metrics, check_val_every_n_epoch=every)


def test_the_factor_is_that_of_torch_and_stops_at_the_final_one() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = ReduceLROnPlateau(optimizer, factor=0.5, patience=1, min_lr=0.2)
    watch = PlateauWatch.of(RULE)
    for epoch, value in enumerate([1.0, 0.9, 0.9, 0.9, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]):
        watch = watch.seen(value, epoch)
        oracle.step(value)
        assert watch.factor(0.2) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_metric_is_seen_once_and_one_that_is_missing_changes_nothing() -> None:
    watch = PlateauWatch.of(RULE)
    assert shown_metric(watch, fake({}), {"acc": 1.0}) is watch
    seen = shown_metric(watch, fake({}, epoch=3), {"loss": 2.0})
    assert seen.state["best"] == 2.0 and seen.observed == 3 and watch.state["best"] is None


def test_a_metric_that_came_a_moment_late_counts_for_its_own_epoch() -> None:
    watch = PlateauWatch(RULE, RULE.init(), awaited=4)
    late = shown_what_came_late(watch, fake({"loss": 2.0}, epoch=5), strict=True)
    assert late.observed == 4 and late.awaited is None and late.state["best"] == 2.0
    assert shown_what_came_late(late, fake({"loss": 1.0}, epoch=5), strict=True) is late, "nothing is awaited"


def test_a_metric_that_never_came_is_an_error_once_validation_was_due() -> None:
    watch = PlateauWatch(RULE, RULE.init(), awaited=0)
    with pytest.raises(TrickError, match=r"no such metric was logged in epoch 0. Did you mean 'loss_1'\?"):
        shown_what_came_late(watch, fake({"loss_1": 1.0}), strict=True)
    with pytest.raises(TrickError, match="Logged are: none"):
        shown_what_came_late(watch, fake({}), strict=True)
    assert shown_what_came_late(watch, fake({}), strict=False).awaited == 0
    for every in (2, None):
        assert shown_what_came_late(watch, fake({}, every=every), strict=True).awaited == 0, "not due yet"


def test_a_checkpoint_gives_back_what_was_seen_and_one_of_another_decay_nothing() -> None:
    seen = PlateauWatch.of(RULE).seen(1.0, 0)
    fresh = PlateauWatch.of(RULE)
    restored = fresh.restored({"plateau": seen.state, "of_validation": True})
    assert restored.state == seen.state and restored.of_validation
    assert fresh.restored({"plateau": None, "of_validation": False}) == fresh == fresh.restored({})
