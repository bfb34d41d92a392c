from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_tricks import (
    AlarmError,
    ConflictError,
    DeadUnits,
    GradientAccumulation,
    LRSchedule,
    PredictionCollapse,
    Rollback,
    TrainingDoctor,
    TrickWarning,
)
from lightning_tricks.detection.training_state import put_training_state, training_state
from tests.problems import Classifier, digits, network, sgd, trainer, weights

OPTIMIZERS = {
    "sgd": lambda p: sgd(p, momentum=0.9),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=3e-3, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=3e-3, fused=True),
}
BATCH = 128
ARGUMENTS: dict[str, Any] = {"output": "net", "every_n_steps": 2, "patience": 2, "grace": 4}


class Breaks(Classifier):
    """A classifier that forgets everything at one step, once."""

    def __init__(self, at: int = 30, **more: Any) -> None:
        super().__init__(**more)
        self.at = at

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trace = [*getattr(self, "trace", []), float(self.trainer.optimizers[0].param_groups[0]["lr"])]
        if self.seen == self.at:
            with torch.no_grad():
                for p in self.net.parameters():
                    p.zero_()


def data() -> DataLoader[Any]:
    return DataLoader(digits(1792), batch_size=BATCH)


def run(module: Any, callbacks: list[Any], epochs: int = 6, **more: Any) -> L.Trainer:
    t = trainer(callbacks, max_epochs=epochs, **more)
    t.fit(module, data())
    return t


def skill(module: Any) -> float:
    x, y = digits(1792).tensors
    with torch.no_grad():
        return 1 - float(nn.functional.cross_entropy(module.net(x), y)) / math.log(10)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_state_is_put_back_bit_for_bit_and_training_goes_on_from_it(kind: str, precision: str) -> None:
    class Replay(L.Callback):
        """Keeps the state of step 5; puts it back at step 9 and trains on the batches of steps 5 to 8 again."""

        def on_train_batch_end(self, t: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            scaler = getattr(t.precision_plugin, "scaler", None)
            if batch_idx == 5:
                self.state, self.batches = training_state(module, t.optimizers, scaler), []
                self.groups = [dict(g) for g in t.optimizers[0].param_groups]
            elif batch_idx in (6, 7, 8):
                self.batches.append(batch)
            if batch_idx == 8:
                self.wanted = weights(module).clone()
                put_training_state(self.state, module, t.optimizers, scaler)
                assert all(p.grad is None for p in module.parameters())
                for x, y in self.batches:
                    with t.precision_plugin.forward_context():
                        loss = nn.functional.cross_entropy(module.net(x), y)
                    optimizer = t.optimizers[0]
                    optimizer.zero_grad()
                    (loss if scaler is None else scaler.scale(loss)).backward()
                    if scaler is None:
                        optimizer.step()
                    else:
                        scaler.step(optimizer)
                        scaler.update()
                self.got = weights(module).clone()

    replay = Replay()
    run(Classifier(OPTIMIZERS[kind]), [replay], epochs=1, precision=precision)
    assert torch.equal(replay.got, replay.wanted)


def test_a_state_of_before_the_first_update_takes_the_optimizers_state_away() -> None:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    state = training_state(net, [optimizer], None)
    net(torch.randn(2, 64)).sum().backward()
    optimizer.step()
    put_training_state(state, net, [optimizer], None)
    assert not optimizer.state
    assert torch.equal(weights(net), weights(network()))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_collapsed_run_is_rescued(kind: str, tmp_path: Path) -> None:
    left, rescued = Breaks(make_optimizer=OPTIMIZERS[kind]), Breaks(make_optimizer=OPTIMIZERS[kind])
    run(left, [], epochs=3)
    detector = PredictionCollapse(**ARGUMENTS, action="rollback")
    with pytest.warns(TrickWarning, match=r"Went back to the state after \d+ updates.*rollback 1 of 3"):
        run(rescued, [detector], epochs=12)
    assert skill(left) < 0.3
    assert skill(rescued) > 0.6
    assert len(detector.alarms) == 1 and detector.verdict == detector.alarms[0], "none after the rollback"


def test_the_remedy_lowers_the_rate_and_enlarges_the_window() -> None:
    module = Breaks()
    action = Rollback(lr_factor=0.5, accumulate_factor=2)
    with pytest.warns(TrickWarning, match="updates from 2 times as many batches, learning rates times 0.5"):
        t = run(module, [PredictionCollapse(**ARGUMENTS, action=action)], epochs=10)
    assert module.trace[0] == 0.05
    assert module.trace[-1] == pytest.approx(0.025)
    assert t.global_step < 140, "fewer updates than batches"


def test_beside_a_schedule_and_an_accumulation_they_carry_it_out() -> None:
    module = Breaks()
    tricks = [
        LRSchedule("constant", warmup=0),
        GradientAccumulation(1),
        PredictionCollapse(**ARGUMENTS, action="rollback"),
    ]
    with pytest.warns(TrickWarning, match="learning rates times 0.2"):
        t = run(module, tricks, epochs=10)
    assert module.trace[-1] == pytest.approx(0.01)
    assert t.global_step < 140
    assert skill(module) > 0.4


class BreaksAgain(Breaks):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.at = self.seen if self.seen % 12 == 0 else -1
        super().on_train_batch_end(outputs, batch, batch_idx)


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_it_gives_up_after_max_times() -> None:
    detector = PredictionCollapse(**ARGUMENTS, action=Rollback(max_times=2, accumulate_factor=1))
    with pytest.raises(AlarmError, match=r"2 rollbacks did not help \(max_times=2\)"):
        run(BreaksAgain(), [detector], epochs=20)


def test_a_run_that_collapsed_at_once_goes_back_to_its_begin() -> None:
    module = Classifier(lambda p: sgd(p, lr=30.0))
    action = Rollback(lr_factor=0.002)
    with pytest.warns(TrickWarning, match="Went back to the state after 0 updates"):
        run(module, [PredictionCollapse(**ARGUMENTS, action=action)], epochs=8)
    assert skill(module) > 0.2


def test_two_that_roll_back_differently_are_refused_and_alike_share_their_states() -> None:
    one = PredictionCollapse(**ARGUMENTS, action=Rollback(keep=2))
    with pytest.raises(ConflictError, match=r"PredictionCollapse rolls back with Rollback\(keep=2"):
        run(Classifier(), [one, DeadUnits(action="rollback")], epochs=1)
    pair = [PredictionCollapse(**ARGUMENTS, action="rollback"), TrainingDoctor(2, action="rollback")]
    with pytest.warns(TrickWarning, match="Went back"):
        run(module := Breaks(), pair, epochs=12)
    assert skill(module) > 0.6


class Cut(L.Callback):
    """Saves a checkpoint after some batches of the whole run."""

    def __init__(self, at: int, path: Path) -> None:
        self.at, self.path, self.count = at, path, 0

    def on_train_batch_end(self, t: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.count += 1
        if self.count == self.at:
            t.save_checkpoint(self.path)


class Later(Breaks):
    """Breaks at an update, which a resumed run knows too."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            with torch.no_grad():
                for p in self.net.parameters():
                    p.zero_()


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@pytest.mark.parametrize("epochs_before", [2, 4])
@pytest.mark.parametrize("kind", ["sgd", "adamw fused"])
def test_a_resumed_run_rolls_back_to_the_same_state(kind: str, epochs_before: int, tmp_path: Path) -> None:
    def make() -> tuple[Any, list[Any]]:
        pair = [PredictionCollapse(**ARGUMENTS, action="rollback"), TrainingDoctor(2, action="rollback")]
        return Later(at=30, make_optimizer=OPTIMIZERS[kind]), pair

    path = tmp_path / "a.ckpt"
    whole, tricks = make()
    run(whole, [*tricks, Cut(14 * epochs_before, path)], epochs=7)
    saved = torch.load(path, weights_only=True)
    assert saved["callbacks"]
    resumed, tricks = make()
    t = trainer(tricks, max_epochs=7)
    t.fit(resumed, data(), ckpt_path=path)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("afresh", ["LambdaLR", "by hand"])
def test_the_lower_rate_holds_beside_a_schedule_that_computes_it_afresh(afresh: str) -> None:
    rates: list[float] = []

    class Scheduled(Breaks):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            if afresh == "by hand":
                return optimizer
            constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": constant, "interval": "step"}}

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if afresh == "by hand":
                self.trainer.optimizers[0].param_groups[0]["lr"] = 0.5

    module = Scheduled(make_optimizer=lambda p: sgd(p, lr=0.5))
    with pytest.warns(TrickWarning, match="Went back"):
        run(module, [PredictionCollapse(**ARGUMENTS, action=Rollback(lr_factor=0.2, accumulate_factor=1))], epochs=12)
    assert rates[0] == 0.5
    assert rates[-1] == pytest.approx(0.1)


def test_a_run_that_was_never_healthy_starts_again_at_a_much_lower_rate_and_with_the_same_batches() -> None:
    module = Classifier(lambda p: sgd(p, lr=10.0))
    with pytest.warns(TrickWarning, match=r"after 0 updates, learning rates times 0.04 \(rollback 1 of 3\)"):
        run(module, [PredictionCollapse(**ARGUMENTS, action="rollback")], epochs=8)
    assert skill(module) > 0.2
