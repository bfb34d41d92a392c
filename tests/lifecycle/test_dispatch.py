from __future__ import annotations

import copy
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader

import lightning_tricks
from lightning_tricks import (
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRSchedule,
    PrecisionDoctor,
    TrainingDoctor,
)
from lightning_tricks.lifecycle.dispatch import STEP_HOOKS, Dispatch
from tests.problems import Classifier, fit, loader, trainer


class Peek(L.Callback):
    """Looks at the other callbacks in the middle of a step."""

    def __init__(self) -> None:
        self.receivers: dict[str, list[str]] = {}
        self.copies: list[Any] = []
        self.keys: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        tricks = [c for c in trainer.callbacks if type(c).__module__.startswith("lightning_tricks")]
        for hook in STEP_HOOKS:
            self.receivers[hook] = [type(c).__name__ for c in tricks if callable(getattr(c, hook))]
        self.copies = [copy.deepcopy(c) for c in tricks] + [pickle.loads(pickle.dumps(c)) for c in tricks]
        self.keys = [c.state_key for c in tricks]


def several() -> list[Any]:
    return [
        GradientMonitor(),
        LRSchedule("constant", warmup=0),
        GradientAccumulation(2),
        TrainingDoctor(),
        GradientClip(1.0),
    ]


def test_one_trick_receives_the_hooks_of_a_step_and_afterwards_all_do_again() -> None:
    tricks, peek = several(), Peek()
    keys = [t.state_key for t in tricks]
    t = trainer([*tricks, peek], max_steps=4)
    t.fit(Classifier(), loader(64))
    assert peek.receivers["on_train_batch_start"] == peek.receivers["on_train_batch_end"] == ["GradientMonitor"]
    assert peek.receivers["on_before_backward"] == ["GradientMonitor"]
    assert peek.receivers["on_before_optimizer_step"] == ["GradientClip"], "the last one, after all others"
    assert peek.keys == keys
    for trick in [*tricks, *peek.copies]:
        assert not set(STEP_HOOKS) & set(vars(trick))
        assert all(callable(getattr(trick, hook)) for hook in STEP_HOOKS)


@pytest.mark.parametrize("place", range(3))
def test_what_another_callback_writes_into_gradients_is_clipped_wherever_it_stands_before_the_last_trick(
    place: int,
) -> None:
    class Times(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for p in pl_module.parameters():
                p.grad.mul_(1000.0)

    norms: list[float] = []

    class Read(L.Callback):
        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.extend([float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])))] if grads else [])

    tricks: list[Any] = [GradientMonitor(), LRSchedule("constant", warmup=0), GradientClip(0.5)]
    tricks.insert(place, Times())
    trainer([*tricks, Read()], max_steps=3).fit(Classifier(), loader(64))
    assert norms and all(norm == pytest.approx(0.5, rel=1e-4) for norm in norms)


def test_a_hook_that_a_user_has_put_on_a_trick_is_called_and_put_back() -> None:
    monitor, clip = GradientMonitor(), GradientClip(1.0)
    seen: list[int] = []

    def mine(trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        seen.append(batch_idx)

    clip.on_train_batch_start = mine  # type: ignore[method-assign]
    trainer([monitor, clip], max_steps=3).fit(Classifier(), loader(64))
    assert seen == [0, 1, 2]
    assert vars(clip)["on_train_batch_start"] is mine


def test_a_profiler_of_the_user_sees_each_trick_under_its_own_name() -> None:
    profiler = SimpleProfiler()
    t = trainer(several(), max_steps=4, profiler=profiler)
    t.fit(Classifier(), loader(64))
    seen = {name for name in profiler.recorded_durations if name.endswith("on_train_batch_start")}
    for name in ("GradientAccumulation", "LRSchedule", "TrainingDoctor"):
        assert any(name in entry for entry in seen), name


def test_after_a_fit_that_failed_the_hooks_are_there_again() -> None:
    class Boom(L.Callback):
        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            raise RuntimeError("boom")

    tricks = several()
    with pytest.raises(RuntimeError, match="boom"):
        trainer([*tricks, Boom()], max_steps=4).fit(Classifier(), loader(64))
    assert all(callable(getattr(trick, hook)) for trick in tricks for hook in STEP_HOOKS)


class CountCalls(L.Callback):
    """Counts the calls of Python functions of the pack in steps that are not logged and make no forecast."""

    FIRST, STEPS = 200, 10

    def __init__(self) -> None:
        self.calls = 0
        self._root = os.path.dirname(lightning_tricks.__file__)
        self._before: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.FIRST:
            self._before = sys.getprofile()
            sys.setprofile(self._see)
        if batch_idx == self.FIRST + self.STEPS:
            sys.setprofile(self._before)

    def _see(self, frame: Any, event: str, arg: Any) -> None:
        self.calls += event == "call" and frame.f_code.co_filename.startswith(self._root)


def calls_per_step(tricks: list[Any]) -> float:
    count = CountCalls()
    steps = count.FIRST + count.STEPS + 2
    data = DataLoader([(torch.zeros(2, 64), torch.zeros(2, dtype=torch.int64))] * steps, batch_size=None)
    trainer([count, *tricks], max_steps=steps, max_epochs=1, log_every_n_steps=10**6).fit(Classifier(), data)
    return count.calls / count.STEPS


def test_the_number_of_calls_in_a_step_is_bounded_for_one_callback_and_for_all_of_readme() -> None:
    """Each costs about half a microsecond: time depends on the machine, and their number does not."""
    watchers = [LossScaleGuard(), PrecisionDoctor(), TrainingDoctor()]
    schedule = LRSchedule("constant", total=10**6, warmup=0)
    one, seven = [LossScaleGuard()], [GradientMonitor(), GradientClip(1e6), schedule, GradientAccumulation(1)]
    alone, together = calls_per_step(one), calls_per_step([*seven, *watchers])
    assert 0 < alone <= 66
    assert alone < together <= 210


def test_the_no_grad_that_lightning_puts_in_place_of_torchs_is_not_used_between_backward_and_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lightning after 2.6.6 empties autocast's cache with it, so that training would depend on the callbacks."""
    callers, usual = [], torch.no_grad

    def counted() -> Any:
        callers.append(Path(sys._getframe(1).f_code.co_filename).name)
        return usual()

    monkeypatch.setattr(torch, "no_grad", counted)
    fit(Classifier(), [GradientClip(1.0), LRSchedule("cosine")])
    assert "dispatch.py" not in callers


class Rests(GradientMonitor.__mro__[1], abstract=True):  # type: ignore[misc]
    """Counts what is called, and has nothing more to do from the third batch on."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.calls.append("start")
        if len(self.calls) == 5:
            self.run.dispatch.rest(self, "on_train_batch_start", "_gradients_ready")

    def _gradients_ready(self, run: Any, page: Any) -> None:
        self.calls.append("ready")


@pytest.mark.parametrize("others", [0, 2])
def test_what_has_nothing_to_do_is_called_no_more_but_for_what_a_user_has_put_there(others: int) -> None:
    trick, seen = Rests(), []
    trainer([trick, *several()[:others]], max_steps=5).fit(Classifier(), loader(64))
    assert trick.calls == ["start", "ready"] * 2 + ["start"]
    trick.on_train_batch_start = lambda *_: seen.append(1)  # type: ignore[method-assign]
    trainer([trick, *several()[:others]], max_steps=3, max_epochs=9).fit(Classifier(), loader(64))
    assert len(seen) == 3


def test_what_rests_only_when_something_holds_is_called_everywhere_as_long_as_it_does_not() -> None:
    part = SimpleNamespace(_idle=frozenset())
    dispatch = Dispatch(SimpleNamespace())  # type: ignore[arg-type]
    rested = []
    for when in (False, True, False):
        dispatch.rest(part, "_updated", "on_train_batch_end", when=when)
        rested.append(part._idle)
    assert rested == [frozenset(), frozenset({"_updated", "on_train_batch_end"}), frozenset()]
