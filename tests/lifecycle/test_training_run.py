from __future__ import annotations

import gc
import signal
import weakref
from typing import Any

import lightning.pytorch as L
import pytest
import torch

from lightning_tricks import DeadUnits, GradientAccumulation, GradientClip, GradientMonitor, LRSchedule, TrickError
from lightning_tricks.lifecycle.training_run import TrainingRun
from tests.problems import Classifier, fit, loader, sgd, trainer, weights


def test_all_tricks_of_a_trainer_share_one_run() -> None:
    tricks = [GradientMonitor(), GradientClip(1.0)]
    fit(Classifier(), tricks, n=16)
    assert tricks[0].run is tricks[1].run
    other = GradientMonitor()
    fit(Classifier(), [other], n=16)
    assert other.run is not tricks[0].run


def test_a_trick_that_is_kept_keeps_no_model() -> None:
    module = Classifier(lambda p: sgd(p, momentum=0.9))
    tricks = [GradientMonitor(update_ratio=True), GradientClip(1.0)]
    fit(module, tricks, n=16)
    alive = weakref.ref(module.net[0].weight)
    for trick in tricks:  # what Lightning attaches
        del trick.log, trick.log_dict
    del module
    gc.collect()
    assert alive() is None
    assert tricks[1].clipped_fraction > 0
    with pytest.raises(TrickError, match="is gone"):
        tricks[0].run.trainer  # noqa: B018


def test_an_optimizer_whose_step_calls_its_parents_is_one_update() -> None:
    class Child(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    clip, module, plain = GradientClip(1.0), Classifier(lambda p: Child(p, lr=0.05)), Classifier()
    fit(module, [clip], n=32)
    fit(plain, [GradientClip(1.0)], n=32)
    assert clip.run.clock.state_dict() == {"version": 1, "attempted": [4], "applied": [4]}
    assert torch.equal(weights(module), weights(plain))


def test_a_callback_between_ours_sees_the_gradients_as_backward_left_them() -> None:
    seen: list[float] = []

    class Between(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            seen.append(float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters()])))

    for tricks in (
        [GradientClip(0.1), Between(), GradientMonitor()],
        [GradientClip(0.1), GradientMonitor(), Between()],
    ):
        fit(Classifier(), tricks, n=8)
    assert seen[0] > 1.0
    assert seen[1] == pytest.approx(0.1, rel=1e-4), "after the last of ours they are clipped"


def test_a_run_belongs_to_one_trainer() -> None:
    a, b = L.Trainer(logger=False, enable_checkpointing=False), L.Trainer(logger=False, enable_checkpointing=False)
    run = TrainingRun(a)
    assert run.belongs_to(a)
    assert not run.belongs_to(b)


def test_what_several_tricks_would_say_is_said_once() -> None:
    class Owner:
        pass

    run = TrainingRun(owner := Owner())
    assert [run.common.first_to_say("a"), run.common.first_to_say("a"), run.common.first_to_say("b")] == [
        True,
        False,
        True,
    ]
    assert run.belongs_to(owner)


@pytest.mark.filterwarnings("ignore")
def test_a_trick_goes_on_after_a_fit_that_died_unheard_and_whose_trainer_is_gone() -> None:
    class Worse(L.Callback):
        """Lightning tells nobody of an exception when a callback before it raises in ``on_exception``."""

        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("the first")

        def on_exception(self, *args: Any) -> None:
            raise LookupError("the second")

    def make() -> list[Any]:
        return [GradientAccumulation(2), GradientClip(1.0), DeadUnits(), LRSchedule(warmup=2)]

    tricks, handler = make(), signal.getsignal(signal.SIGTERM)
    dead = trainer([Worse(), *tricks])
    with pytest.raises(LookupError):
        dead.fit(Classifier(), loader())
    signal.signal(signal.SIGTERM, handler)
    gone = weakref.ref(dead)
    del dead
    for trick in tricks:  # Lightning replaces these at the next fit, before any hook
        del trick.log, trick.log_dict
    gc.collect()
    assert gone() is None
    again, fresh = Classifier(), Classifier()
    fit(again, tricks)
    fit(fresh, make())
    assert torch.equal(weights(again), weights(fresh))
