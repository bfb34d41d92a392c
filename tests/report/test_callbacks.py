from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from lightning_tricks import GradientClip, GradientMonitor, LRSchedule, ProgressMetrics
from tests.problems import Classifier, Memory, fit, weights


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_the_bar_shows_norm_rate_and_scale_as_they_are_logged(bar: Any) -> None:
    shown: list[dict[str, Any]] = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            shown.append(next(c for c in trainer.callbacks if isinstance(c, bar)).get_metrics(trainer, pl_module))

    memory = Memory()
    tricks = [GradientMonitor(), LRSchedule(), GradientClip(1.0), ProgressMetrics(), Look(), bar(leave=False)]
    fit(Classifier(), tricks, n=64, precision="16-mixed", logger=memory, enable_progress_bar=True)
    row = shown[-1]
    for key in ("grad/norm", "schedule/lr"):
        assert float(row[key]) == pytest.approx(list(memory.series(key).values())[-1], rel=1e-2)


def test_only_what_is_logged_is_shown_and_nothing_goes_to_the_loggers_twice() -> None:
    memory, module, plain = Memory(), Classifier(), Classifier()
    t = fit(module, [GradientMonitor(), ProgressMetrics(["grad/norm", "amp/scale"])], n=64, logger=memory)
    assert set(t.progress_bar_metrics) == {"grad/norm"}
    assert all(len([1 for step, row in memory.rows if "grad/norm" in row and step == s]) == 1 for s in range(8))
    fit(plain, n=64)
    assert torch.equal(weights(module), weights(plain))


@pytest.mark.parametrize(
    ("keys", "words"), [("grad/norm", "must be a list"), ([], "at least one"), ([1], "must be a list")]
)
def test_wrong_keys_are_told(keys: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        ProgressMetrics(keys)
