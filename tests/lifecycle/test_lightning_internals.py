"""Each private name of Lightning is there, or is replaced, or refused by name before training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch

from lightning_tricks import ExactResume, GradientAccumulation, GradientMonitor, LRFinder, UnsupportedError
from lightning_tricks.lifecycle import lightning_internals as internals
from lightning_tricks.numerics.internals import REFUSED, Internal
from tests.problems import Classifier, loader, trainer


@pytest.mark.parametrize("namespace", [L, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_this_lightning_has_all_of_them(namespace: Any) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    assert internals.absent(namespace.Trainer(accelerator="cpu", **quiet)) == []


def test_what_is_needed_and_not_there_is_refused_by_name() -> None:
    unknown = Internal("trainer.fit_loop._of_tomorrow", "", REFUSED)
    with pytest.raises(UnsupportedError, match=r"ExactResume: lightning \S+ has no trainer.fit_loop._of_tomorrow\."):
        internals.require(trainer([]), "ExactResume", (unknown,))


@pytest.mark.parametrize("make", [ExactResume, LRFinder])
def test_a_trick_that_needs_one_refuses_before_the_first_step(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = (Internal("trainer._of_tomorrow", "", REFUSED),)
    monkeypatch.setattr("lightning_tricks.resume.exact.RESUME", lacking)
    monkeypatch.setattr("lightning_tricks.dry_run.steps.DRY_RUN", lacking)
    module = Classifier()
    with pytest.raises(UnsupportedError, match=rf"{make.__name__}: lightning .* has no trainer._of_tomorrow"):
        trainer([make()]).fit(module, loader(16))


def test_without_lightnings_own_step_the_global_step_is_the_axis() -> None:
    t = trainer([GradientMonitor()])
    t.fit(Classifier(), loader(16))
    assert internals.batches_that_stepped(t) == t.global_step > 0
    bare = SimpleNamespace(global_step=5, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()))
    assert internals.batches_that_stepped(bare) == 5


def test_without_lightnings_methods_gradients_are_cleared_by_the_optimizer() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    loop = SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(automatic_optimization=object())))
    internals.clear_gradients(loop, 0, torch.optim.SGD([weight]))
    assert weight.grad is None


def test_metrics_come_from_the_loop_or_from_the_trainer() -> None:
    bare: Any = SimpleNamespace(callback_metrics={"loss": 1.0})
    assert internals.callback_metrics(bare, SimpleNamespace()) == {"loss": 1.0}
    assert internals.callback_metrics(bare, SimpleNamespace(_results=None)) == {}


def test_a_function_before_the_first_fetch_is_called_once() -> None:
    calls: list[str] = []
    fetcher = SimpleNamespace(_start_profiler=lambda: calls.append("usual"))
    internals.before_first_fetch(fetcher, lambda: calls.append("ours"))
    fetcher._start_profiler()
    fetcher._start_profiler()
    assert calls == ["ours", "usual", "usual"]


def test_a_window_that_lightning_does_not_begin_is_cleared_with_its_hooks() -> None:
    seen: list[int] = []

    class Watch(L.Callback):
        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            seen.append(trainer.global_step)

    trainer([GradientAccumulation({0: 2, 1: 3}), Watch()]).fit(Classifier(), loader(40))
    assert seen == sorted(set(seen)), "once for every window"
