from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks import GradientMonitor, TrickError, TrickWarning
from lightning_tricks.optimizer_step.step_clock import StepClock
from tests.gradients.problems import Gan
from tests.problems import Classifier, fit, loader, trainer


class Witness(torch.optim.SGD):
    """Counts by itself how often its weights really moved."""

    moves = 0

    def step(self, closure: Any = None) -> Any:
        before = [p.detach().clone() for g in self.param_groups for p in g["params"]]
        result = super().step(closure)
        after = [p.detach() for g in self.param_groups for p in g["params"]]
        type(self).moves += any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return result


def counted(**arguments: Any) -> tuple[dict[str, Any], int]:
    Witness.moves = 0
    spoil = arguments.pop("spoil", None)
    monitor = GradientMonitor()
    fused = arguments.pop("fused", False)
    fit(Classifier(lambda p: Witness(p, lr=0.01, fused=fused), spoil=spoil), [monitor], **arguments)
    return monitor.run.clock.state_dict(), Witness.moves


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_updates_are_counted_under_accumulation(accumulate: int) -> None:
    state, moves = counted(accumulate_grad_batches=accumulate, max_epochs=2)
    assert state["applied"] == state["attempted"] == [moves] == [2 * -(-12 // accumulate)]


def test_accumulation_that_is_scheduled_is_counted() -> None:
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    monitor = GradientMonitor()
    fit(Classifier(), [monitor, GradientAccumulationScheduler({0: 4, 1: 2})], max_epochs=3)
    assert monitor.run.clock.state_dict()["applied"] == [3 + 6 + 6]


@pytest.mark.parametrize("fused", [False, True])
def test_overflows_are_attempts_but_no_updates(fused: bool) -> None:
    state, moves = counted(precision="16-mixed", init_scale=2.0**26, n=160, fused=fused)
    assert state["attempted"] == [20]
    assert state["applied"] == [moves]
    assert 0 < moves < 20


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_that_returns_none_is_no_update(precision: str, accumulate: int) -> None:
    state, moves = counted(
        precision=precision, accumulate_grad_batches=accumulate, spoil=lambda i, loss: None if i % 4 == 3 else loss
    )
    assert state["attempted"] == [12 // accumulate]
    assert state["applied"] == [moves]


def test_every_optimizer_has_a_count_of_its_own() -> None:
    monitor = GradientMonitor()
    fit(Gan(), [monitor], n=32)
    assert monitor.run.clock.state_dict() == {"version": 1, "attempted": [4, 4], "applied": [4, 4]}


def test_a_bare_optimizers_step_counts_too() -> None:
    class Bare(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    monitor = GradientMonitor()
    with pytest.warns(TrickWarning, match=r"use_pl_optimizer=False\): the gradients of such steps are neither"):
        fit(Bare(manual=True), [monitor], n=32)
    assert monitor.run.clock.state_dict() == {"version": 1, "attempted": [4], "applied": [4]}


def test_counts_go_on_after_a_resume(tmp_path: Any) -> None:
    first = trainer([GradientMonitor()], precision="16-mixed", init_scale=2.0**26)
    first.fit(Classifier(), loader(96))
    first.save_checkpoint(tmp_path / "a.ckpt")
    monitor, whole = GradientMonitor(), GradientMonitor()
    again = trainer([monitor], precision="16-mixed", init_scale=2.0**26, max_epochs=2)
    again.fit(Classifier(), loader(96), ckpt_path=tmp_path / "a.ckpt")
    fit(Classifier(), [whole], precision="16-mixed", init_scale=2.0**26, max_epochs=2)
    assert monitor.run.clock.state_dict() == whole.run.clock.state_dict()


@pytest.mark.parametrize("state", [{}, {"version": 2}, {"version": 1, "attempted": [1], "applied": ["1"]},
                                   {"version": 1, "attempted": [1], "applied": [1, 2]}, {"version": 1, "attempted": 3}])  # fmt: skip
def test_a_damaged_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not a state of version 1"):
        StepClock().load_state_dict(state)


def test_fewer_optimizers_than_before_are_refused() -> None:
    clock = StepClock()
    clock.load_state_dict({"version": 1, "attempted": [1, 1], "applied": [1, 1]})
    with pytest.raises(TrickError, match="2 optimizers were counted before, but this run has 1"):
        clock.start(1)
