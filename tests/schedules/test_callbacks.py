from __future__ import annotations

import math
import time
import warnings
from datetime import timedelta
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks import (
    ConflictError,
    GradientClip,
    LRSchedule,
    Plateau,
    TrainingDoctor,
    TrickError,
    TrickWarning,
    UnsupportedError,
)
from lightning_tricks.decays import Step
from lightning_tricks.schedules import written
from lightning_tricks.schedules.curves import Span
from tests.gradients.problems import Gan
from tests.problems import Classifier, Memory, digits, fit, loader, sgd, trainer, weights
from tests.schedules.problems import closed_form


class Rates(L.Callback):
    """Notes the rate that each step really used."""

    def __init__(self) -> None:
        self.used: dict[int, list[float]] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for i, optimizer in enumerate(trainer.optimizers):
            rows = self.used.setdefault(i, [])
            optimizer.register_step_pre_hook(
                lambda o, args, kwargs, rows=rows: rows.append([float(g["lr"]) for g in o.param_groups])
            )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("manual", [False, True])
def test_every_update_uses_the_curves_rate_and_it_is_what_is_logged(
    fused: bool, manual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as on a GPU: with a fused optimizer and skipping, the rate is a tensor that is written in place
    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    rates, logger = Rates(), Memory()
    module = Classifier(lambda p: sgd(p, fused=fused), manual=manual)
    fit(module, [GradientClip(1.0), LRSchedule(warmup=3), rates], logger=logger)
    expected = [0.05 * closed_form(k, 12, 3) for k in range(12)]
    assert [row[0] for row in rates.used[0]] == pytest.approx(expected, rel=1e-6)
    assert list(logger.series("schedule/lr").values()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("device_only", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("total", [20, None])
def test_steps_that_the_scaler_skips_do_not_count(
    fused: bool, device_only: bool, total: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device_only:
        monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    used: list[tuple[float, int, int]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            clock = schedule.run.clock
            used.append((float(trainer.optimizers[0].param_groups[0]["lr"]), clock.applied_on_host(0), batch_idx))

    schedule = LRSchedule("linear", warmup=0, total=total)
    module = Classifier(lambda p: sgd(p, fused=fused))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        t = fit(module, [schedule, Watch()], n=160, precision="16-mixed", init_scale=2.0**20)
    skipped = 20 - schedule.run.clock.applied_on_host(0)
    assert 3 <= skipped <= 9
    told = any("training ended at update" in str(w.message) for w in caught)
    curve = [0.05 * closed_form(k, 20, 0, "linear") for k in range(21)]
    for rate, applied, attempted in used:
        catching_up = total is None and 20 - attempted < skipped
        if not catching_up:
            assert rate == pytest.approx(curve[applied], rel=1e-6), (applied, attempted)
        else:
            assert rate <= curve[applied]
    final = float(t.optimizers[0].param_groups[0]["lr"])
    if total is None:
        assert final <= 0.05 * 0.01, "the decay still reaches its end"
        assert not told
    else:
        assert final == pytest.approx(curve[20 - skipped], rel=1e-6)
        assert told


def test_steps_without_a_gradient_do_not_count() -> None:
    rates = Rates()
    schedule = LRSchedule("linear", warmup=0, total=20)
    module = Classifier(spoil=lambda i, loss: None if i % 3 == 1 else loss)
    with pytest.warns(TrickWarning, match="training ended at update 8 of 20"):
        fit(module, [schedule, rates])
    assert schedule.run.clock.state_dict() == {"version": 1, "attempted": [12], "applied": [8]}


@pytest.mark.parametrize(("accumulate", "total"), [(1, 24), (5, 6), (4, 6)])
def test_the_length_is_that_of_the_run(accumulate: int, total: int) -> None:
    rates = Rates()
    fit(Classifier(), [LRSchedule(warmup=0), rates], max_epochs=2, accumulate_grad_batches=accumulate)
    expected = [0.05 * closed_form(k, total, 0) for k in range(total)]
    assert [row[0] for row in rates.used[0]] == pytest.approx(expected, rel=1e-9)


def test_units_are_updates_epochs_and_shares() -> None:
    for warmup in (6, "6st", "0.5ep", "25%"):
        rates = Rates()
        fit(Classifier(), [LRSchedule("constant", warmup=warmup), rates], max_epochs=2)
        expected = [0.05 * closed_form(k, 24, 6, "constant") for k in range(24)]
        assert [row[0] for row in rates.used[0]] == pytest.approx(expected, rel=1e-9)


def test_groups_keep_their_ratios_and_are_logged() -> None:
    def two(parameters: Any) -> Any:
        p = list(parameters)
        return sgd([{"params": p[:2], "lr": 0.01, "name": "body"}, {"params": p[2:], "lr": 0.1}])

    rates, logger = Rates(), Memory()
    fit(Classifier(two), [LRSchedule(warmup=2), rates], logger=logger)
    for low, high in rates.used[0]:
        assert high == pytest.approx(10 * low)
    assert logger.series("schedule/lr/group1")[3] == pytest.approx(0.1 * closed_form(3, 12, 2))
    assert logger.series("schedule/lr/body")[3] == pytest.approx(0.01 * closed_form(3, 12, 2))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_has_the_rates_and_weights_of_the_uninterrupted_one(
    fused: bool, stop: int, tmp_path: Any
) -> None:
    def make(parameters: Any) -> Any:
        return torch.optim.AdamW(parameters, lr=0.01, fused=fused)

    def tricks() -> list[Any]:
        return [LRSchedule(warmup=3), GradientClip(1.0)]

    whole = Classifier(make)
    fit(whole, tricks(), n=32, max_epochs=4)

    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == stop - 1:
                trainer.save_checkpoint(tmp_path / "stop.ckpt")

    fit(Classifier(make), [*tricks(), Stop()], n=32, max_epochs=4)
    resumed = Classifier(make)
    trainer(tricks(), max_epochs=4).fit(resumed, loader(32), ckpt_path=tmp_path / "stop.ckpt")
    assert torch.equal(weights(whole), weights(resumed))


def test_an_old_checkpoint_gives_the_position_by_its_global_step(tmp_path: Any) -> None:
    first = trainer(max_epochs=1)
    first.fit(Classifier(), loader(32))
    first.save_checkpoint(tmp_path / "old.ckpt")
    rates = Rates()
    with pytest.warns(TrickWarning, match=r"holds no schedule: it goes on at update \[4\]"):
        trainer([LRSchedule(warmup=0), rates], max_epochs=3).fit(
            Classifier(), loader(32), ckpt_path=tmp_path / "old.ckpt"
        )
    expected = [0.05 * closed_form(k, 12, 0) for k in range(4, 12)]
    assert [row[0] for row in rates.used[0]] == pytest.approx(expected, rel=1e-9)


def with_scheduler(parameters: Any) -> Any:
    optimizer = sgd(parameters)
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.1)}


def test_a_scheduler_of_the_module_is_named_or_replaced() -> None:
    with pytest.raises(ConflictError, match=r"Classifier\.configure_optimizers returns a scheduler too \(LambdaLR\)"):
        fit(Classifier(with_scheduler), [LRSchedule()])
    rates = Rates()
    fit(Classifier(with_scheduler), [LRSchedule(warmup=2, conflict="replace"), rates])
    expected = [0.05 * closed_form(k, 12, 2) for k in range(12)]
    assert [row[0] for row in rates.used[0]] == pytest.approx(expected, rel=1e-9)


def test_a_rate_on_the_device_is_not_read_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gradients.problems import host_reads

    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)

    def added(steps: int) -> int:
        tricks = [GradientClip(1.0), LRSchedule(total=1000, warmup=10)]
        return host_reads(tricks, lambda p: sgd(p, fused=True), steps=steps)

    def of_torch(steps: int) -> int:  # on a CPU, torch's fused step reads a tensor rate itself
        return host_reads([], lambda p: sgd(p, fused=True, lr=torch.tensor(0.05)), steps=steps)

    with pytest.warns(TrickWarning):
        longer, shorter = added(12), added(6)
    assert longer - shorter == of_torch(12) - of_torch(6)


def test_a_rate_of_a_device_replaces_a_resumed_rate_on_the_host() -> None:
    """Copied into the tensor on the host it would wait for the device at every update."""
    group: dict[str, Any] = {"lr": torch.tensor(0.1)}
    on_device = torch.empty((), device="meta")
    written._put_rate(group, on_device)
    assert group["lr"].device.type == "meta"
    assert group["lr"] is not on_device
    kept = group["lr"]
    written._put_rate(group, on_device)
    assert group["lr"] is kept, "a tensor on the device is written, since a captured step holds it"


def test_a_number_is_written_into_the_tensor_that_is_there() -> None:
    kept = torch.tensor(0.1)
    group = {"lr": kept}
    written._put_rate(group, 0.5)
    assert group["lr"] is kept
    assert float(kept) == 0.5


def test_learning_rate_monitor_shows_our_values() -> None:
    logger = Memory()
    fit(Classifier(), [L.callbacks.LearningRateMonitor("step"), LRSchedule(warmup=2)], logger=logger)
    expected = [0.05 * closed_form(k, 12, 2) for k in range(12)]
    assert list(logger.series("lr-SGD").values()) == pytest.approx(expected, rel=1e-6)


def test_iterable_data_need_a_length() -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            yield from digits(32)

    data = torch.utils.data.DataLoader(Stream(), batch_size=8)
    with pytest.raises(TrickError, match=r"LRSchedule: .*the data have no length.*Pass total="):
        trainer([LRSchedule()], max_epochs=2).fit(Classifier(), data)
    with pytest.raises(TrickError, match=r"Or give warmup= in updates"):
        trainer([LRSchedule()], max_epochs=3).fit(Classifier(), data)
    rates = Rates()
    trainer([LRSchedule(total=8, warmup=0), rates], max_epochs=2).fit(Classifier(), data)
    assert [row[0] for row in rates.used[0]] == pytest.approx([0.05 * closed_form(k, 8, 0) for k in range(8)])


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(TrickError, match=r"warm-up \(50\) and hold \(0\) are longer than the run \(12 updates\)"):
        fit(Classifier(), [LRSchedule(warmup=50)])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"decay": "cosin"}, ValueError, "Did you mean 'cosine'"),
        ({"warmup": -1}, ValueError, "warmup must be >= 0"),
        ({"warmup": "5 percent"}, ValueError, "in no known form"),
        ({"warmup": 1.5}, TypeError, "whole number or a string"),
        ({"warmup": "120%"}, ValueError, "at most 100%"),
        ({"warmup_shape": "step"}, ValueError, "warmup_shape must be one of"),
        ({"warmup_shape": "exponential"}, ValueError, "warmup_start must be > 0"),
        ({"warmup_start": 2.0}, ValueError, "warmup_start must be >= 0 and <= 1"),
        ({"final": -0.1}, ValueError, "final must be >= 0 and <= 1"),
        ({"decay": "constant", "final": 0.5}, ValueError, "final has no meaning"),
        ({"total": "50%"}, ValueError, "total must be a number of updates or epochs"),
        ({"total": 0}, ValueError, "total must be a number"),
        ({"conflict": "ignore"}, ValueError, "conflict must be one of"),
        ({"decay": "noam", "warmup": 10}, ValueError, "Noam has its own warm-up"),
        ({"decay": "one_cycle", "hold": 10}, ValueError, "OneCycle has its own shape"),
        ({"decay": "one_cycle", "final": 0.1}, ValueError, "final has no meaning for OneCycle"),
        ({"momentum": (0.9,)}, ValueError, "momentum must be two numbers"),
        ({"momentum": (0.9, 1.5)}, ValueError, "momentum must be >= 0 and < 1"),
        ({"weight_decay_final": -1.0}, ValueError, "weight_decay_final must be >= 0"),
        ({"overrides": {"(": 0.1}}, ValueError, "not a regular expression"),
        ({"overrides": {"a": -0.1}}, ValueError, "overrides must be >= 0"),
        ({"overrides": {"a": "plateau"}}, ValueError, "a plateau holds for all groups"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        LRSchedule(**arguments)


def test_deepspeed_is_refused_by_name() -> None:
    class DeepSpeedStrategy(L.strategies.SingleDeviceStrategy):
        pass

    with pytest.raises(UnsupportedError, match="DeepSpeedStrategy is not supported"):
        fit(Classifier(), [LRSchedule()], strategy=DeepSpeedStrategy("cpu"))


# -- momentum, weight decay, groups -----------------------------------------------------------------------------------


def used_hyperparameters(schedule: LRSchedule, make: Any, n: int = 96) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []

    class Note(L.Callback):
        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            group = optimizer.param_groups[0]
            momentum = group["momentum"] if "momentum" in group else group["betas"][0]
            rows.append({"lr": float(group["lr"]), "momentum": momentum, "weight_decay": group["weight_decay"]})

    fit(Classifier(make), [schedule, Note()], n=n)
    return rows


@pytest.mark.parametrize("adam", [False, True])
def test_one_cycle_with_inverse_momentum_is_torchs(adam: bool) -> None:
    def make(parameters: Any) -> Any:
        kind = torch.optim.AdamW if adam else torch.optim.SGD
        return kind(parameters, lr=0.1, **({} if adam else {"momentum": 0.9}))

    rows = used_hyperparameters(LRSchedule("one_cycle", momentum=(0.85, 0.95)), make)
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)
    for k, row in enumerate(rows):
        group = optimizer.param_groups[0]
        momentum = group["betas"][0] if adam else group["momentum"]
        assert row["lr"] == pytest.approx(group["lr"], rel=1e-12)
        assert row["momentum"] == pytest.approx(momentum, rel=1e-12)
        optimizer.step()
        if k < 11:
            scheduler.step()


def test_weight_decay_follows_a_half_cosine_and_none_stays_none() -> None:
    def make(parameters: Any) -> Any:
        p = list(parameters)
        return sgd([{"params": p[:2], "weight_decay": 0.04}, {"params": p[2:], "weight_decay": 0.0}])

    rows = used_hyperparameters(LRSchedule(weight_decay_final=0.4), make)
    expected = [0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * k / 12)) / 2 for k in range(12)]
    assert [row["weight_decay"] for row in rows] == pytest.approx(expected, rel=1e-12)
    optimizer = make(Classifier().parameters())
    module = Classifier(lambda p: optimizer)
    module.net = Classifier().net
    optimizer = make(module.parameters())
    fit(module, [LRSchedule(weight_decay_final=0.4)])
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_momentum_needs_an_optimizer_that_has_one() -> None:
    with pytest.raises(TrickError, match="Adagrad has neither momentum nor betas"):
        fit(Classifier(lambda p: torch.optim.Adagrad(p, lr=0.1)), [LRSchedule(momentum=(0.95, 0.85))])


def test_momentum_on_a_device_that_alone_knows_the_skips_follows_the_last_logged_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    logger = Memory()
    schedule = LRSchedule("linear", warmup=0, momentum=(0.9, 0.5), total=20)
    module = Classifier(lambda p: torch.optim.AdamW(p, lr=0.05, fused=True))
    with pytest.warns(TrickWarning, match="training ended"):
        fit(module, [schedule], n=160, precision="16-mixed", init_scale=2.0**18, logger=logger)
    applied = schedule.run.clock.applied_on_host(0)
    assert applied < 20
    rates, momenta = (list(logger.series(f"schedule/{k}").values()) for k in ("lr", "momentum"))
    # the linear curve is 1 - k/20, and once no more steps are skipped the momentum is that of the same k
    assert momenta[-1] == pytest.approx(0.9 - 0.4 * rates[-1] / 0.05, abs=1e-6)


def two_groups(parameters: Any) -> Any:
    p = list(parameters)
    return sgd([{"params": p[:2], "name": "body"}, {"params": p[2:], "name": "head"}])


def test_overrides_give_groups_a_factor_or_a_curve_of_their_own() -> None:
    rates = Rates()
    fit(Classifier(two_groups), [LRSchedule(warmup=2, overrides={r"^net\.0\.": 0.1, "^head$": "constant"}), rates])
    for k, (body, head) in enumerate(rates.used[0]):
        assert body == pytest.approx(0.1 * 0.05 * closed_form(k, 12, 2), rel=1e-12)
        assert head == pytest.approx(0.05 * closed_form(k, 12, 2, "constant"), rel=1e-12)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"^hat": 0.1}, "the pattern matches no parameter"),
        ({r"weight$": 0.1}, r"it matches 'net.0.weight' but not 'net.0.bias' of the same parameter group"),
    ],
)
def test_overrides_that_fit_no_group_are_refused(overrides: dict[str, float], text: str) -> None:
    with pytest.raises(TrickError, match=text):
        fit(Classifier(two_groups), [LRSchedule(overrides=overrides)])


def test_groups_that_are_unfrozen_in_mid_run_join_the_schedule() -> None:
    class Unfreeze(L.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.01)

    rates = Rates()
    module = Classifier(lambda p: sgd([q for q in p if q.requires_grad]))
    fit(module, [Unfreeze(), LRSchedule(warmup=0, overrides={r"^net\.0": 0.5}), rates], n=48, max_epochs=2)
    assert [len(row) for row in rates.used[0]] == [1] * 6 + [2] * 6
    for k, row in enumerate(rates.used[0][6:], start=6):
        assert row[0] == pytest.approx(0.05 * closed_form(k, 12, 0))
    # the group joins at the next update with the rate that it came with as its base
    for k, row in enumerate(rates.used[0][7:], start=7):
        assert row[1] == pytest.approx(0.5 * 0.01 * closed_form(k, 12, 0))


# -- lengths that nobody knows ----------------------------------------------------------------------------------------


class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield from digits(32)


def test_data_without_a_length_tell_it_in_the_first_epoch() -> None:
    data, rates = torch.utils.data.DataLoader(Endless(), batch_size=8), Rates()
    with pytest.warns(TrickWarning, match="held in the first epoch and decays from the second on"):
        trainer([LRSchedule("linear", warmup=2), rates], max_epochs=3).fit(Classifier(), data)
    expected = [0.5, 1, 1, 1] + [1 - k / 8 for k in range(8)]
    assert [row[0] / 0.05 for row in rates.used[0]] == pytest.approx(expected, rel=1e-12)


def test_what_the_first_epoch_told_survives_a_resume(tmp_path: Any) -> None:
    data = torch.utils.data.DataLoader(Endless(), batch_size=8)

    class Save(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    with pytest.warns(TrickWarning):
        trainer([LRSchedule("linear", warmup=2), Save()], max_epochs=3).fit(Classifier(), data)
    rates = Rates()
    trainer([LRSchedule("linear", warmup=2), rates], max_epochs=3).fit(
        Classifier(), data, ckpt_path=tmp_path / "a.ckpt"
    )
    assert [row[0] / 0.05 for row in rates.used[0]] == pytest.approx([1 - k / 8 for k in range(4, 8)], rel=1e-12)


@pytest.mark.parametrize("decay", ["inverse_sqrt", Step(4, gamma=0.5), "constant"])
def test_curves_with_lengths_of_their_own_need_no_end(decay: Any) -> None:
    data, rates = torch.utils.data.DataLoader(Endless(), batch_size=8), Rates()
    schedule = LRSchedule(decay, warmup=2)
    trainer([schedule, rates], max_epochs=2).fit(Classifier(), data)
    assert [row[0] / 0.05 for row in rates.used[0]] == pytest.approx(schedule.values(8), rel=1e-12)


class Clock:
    """A clock that the test moves, in place of Lightning's Timer's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(
            "lightning.pytorch.callbacks.timer.Timer.time_elapsed", lambda timer, stage="train": self.now
        )


@pytest.mark.parametrize("epochs", [-1, 1000])
def test_with_max_time_the_curve_follows_the_wall_clock(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, used = Clock(monkeypatch), []

    class Tick(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            used.append(trainer.optimizers[0].param_groups[0]["lr"] / 0.05)
            clock.now += 10.0

    t = trainer([Tick(), LRSchedule("linear", warmup="20%")], max_epochs=epochs, max_time=timedelta(seconds=100))
    t.fit(Classifier(), loader(32))
    share = [k / 10 if epochs == -1 else max(0.0, (k / 10 - 0.05) / 0.95) for k in range(10)]
    expected = [x / 0.2 if x < 0.2 else 1 - (x - 0.2) / 0.8 for x in share]
    assert used == pytest.approx(expected, abs=2e-3)


def test_a_max_time_for_safety_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch).now = 300.0
    rates = Rates()
    fit(Classifier(), [LRSchedule(warmup=3), rates], max_time=timedelta(seconds=10_000))
    assert [row[0] for row in rates.used[0]] == pytest.approx([0.05 * closed_form(k, 12, 3) for k in range(12)])


def test_the_wall_clock_wants_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    with pytest.raises(TrickError, match="measured in shares of time"):
        fit(Classifier(), [LRSchedule(warmup=50)], max_epochs=-1, max_time=timedelta(seconds=100))
    with pytest.raises(TrickError, match="measured in shares of time"):
        fit(Classifier(), [LRSchedule(Step("30%"), hold=5)], max_epochs=-1, max_time=timedelta(seconds=100))
    with pytest.raises(ValueError, match=r"Step\(every=30\): max_time bounds this run"):
        Step(30).resolve(Span(length=100, timed=True))


# -- plateau ----------------------------------------------------------------------------------------------------------


class Validated(Classifier):
    """Logs a validation loss that follows a script."""

    script = (1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.7)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.script[self.trainer.current_epoch])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("step_metric", self.script[self.trainer.current_epoch], on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log("late_metric", self.script[self.trainer.current_epoch])


def oracle_rates(epochs: int, **arguments: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments)
    out = []
    for epoch in range(epochs):
        out.append(optimizer.param_groups[0]["lr"])
        scheduler.step(Validated.script[epoch])
    return out


@pytest.mark.parametrize("monitor", ["val_loss", "step_metric", "late_metric"])
def test_a_plateau_is_torchs_and_exact_on_resume_where_lightning_is_late(monitor: str, tmp_path: Any) -> None:
    def run(epochs: int, **arguments: Any) -> list[float]:
        rates, keep = Rates(), L.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        tricks = [LRSchedule(Plateau(monitor, factor=0.5, patience=1), warmup=0), rates, keep]
        t = trainer(tricks, max_epochs=epochs, num_sanity_val_steps=1, enable_checkpointing=True)
        t.fit(Validated(), loader(16, 16), loader(16, 16), **arguments)
        return [row[0] for row in rates.used[0]]

    expected = oracle_rates(10, factor=0.5, patience=1)
    assert len(set(expected)) > 2
    assert run(10) == pytest.approx(expected, rel=1e-12)
    assert run(10, ckpt_path=tmp_path / "epoch=3.ckpt") == pytest.approx(expected[4:], rel=1e-12)


def test_a_plateau_counts_validations_where_not_every_epoch_has_one() -> None:
    rates = Rates()
    tricks = [LRSchedule(Plateau("val_loss", factor=0.5, patience=0), warmup=0), rates]
    trainer(tricks, max_epochs=10, check_val_every_n_epoch=3).fit(Validated(), loader(16, 16), loader(16, 16))
    # validations after epochs 2, 5, 8 show 0.9, 0.8, 0.8: one without improvement
    assert [row[0] for row in rates.used[0]] == pytest.approx([0.05] * 9 + [0.025])


def test_a_plateau_names_a_metric_that_is_not_there() -> None:
    with pytest.raises(TrickError, match=r"Plateau\(monitor='vall_loss'\): no such metric.*Did you mean 'val_loss'"):
        trainer([LRSchedule(Plateau("vall_loss"), warmup=0)]).fit(Validated(), loader(16, 16), loader(16, 16))


def test_lightnings_plateau_is_an_epoch_late_after_a_resume(tmp_path: Any) -> None:  # until lightning>2.6.6 (#14702)
    class Theirs(Validated):
        def configure_optimizers(self) -> Any:
            optimizer = sgd(self.parameters())
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    keep = L.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer([keep], max_epochs=10, enable_checkpointing=True).fit(Theirs(), loader(16, 16), loader(16, 16))
    rates, keep = Rates(), L.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    t = trainer([rates, keep], max_epochs=10, enable_checkpointing=True)
    t.fit(Theirs(), loader(16, 16), loader(16, 16), ckpt_path=tmp_path / "epoch=3.ckpt")
    assert [row[0] for row in rates.used[0]] != pytest.approx(oracle_rates(10, factor=0.5, patience=1)[4:])


@pytest.mark.parametrize("total", [10**6, 10**9])
def test_writing_the_rate_takes_little_time_even_at_large_totals(total: int) -> None:
    schedule = LRSchedule(total=total, warmup=1000)
    begun = time.perf_counter()
    with pytest.warns(TrickWarning):
        fit(Classifier(), [schedule])
    assert time.perf_counter() - begun < 60, "no table of a billion entries is made"


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_resumed_in_mid_epoch_and_mid_window_has_the_rates_of_the_whole(
    accumulate: int, stop: int, tmp_path: Any
) -> None:
    class Save(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 0 and batch_idx == stop:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    def run(*callbacks: Any, **arguments: Any) -> list[float]:
        rates = Rates()
        t = trainer([LRSchedule(warmup=3), rates, *callbacks], max_epochs=2, accumulate_grad_batches=accumulate)
        t.fit(Classifier(), loader(96), **arguments)
        return [row[0] for row in rates.used[0]]

    whole = run(Save())
    assert run(ckpt_path=tmp_path / "mid.ckpt") == pytest.approx(whole[(stop + 1) // accumulate :], rel=1e-12)


def test_two_optimizers_of_manual_optimization_follow_the_curve_at_their_own_counts() -> None:
    class Uneven(Gan):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()  # type: ignore[misc,attr-defined]
            for optimizer in [first, second] if batch_idx % 3 == 0 else [first]:
                optimizer.zero_grad()
                self.manual_backward(sum(p.square().sum() for p in self.parameters()))
                optimizer.step()

    rates = Rates()
    fit(Uneven(), [LRSchedule("linear", warmup=2), rates])
    for index, count in ((0, 12), (1, 4)):
        base = rates.used[index][1][0]  # the second update is the peak
        expected = [base * closed_form(k, count, 2, "linear") for k in range(count)]
        assert [row[0] for row in rates.used[index]] == pytest.approx(expected, rel=1e-12)


def test_groups_that_are_unfrozen_in_mid_run_follow_the_curve_from_their_first_update_on() -> None:
    rates: list[list[float]] = []

    class Net(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            rates.append([group["lr"] for group in self.optimizers().param_groups])  # type: ignore[union-attr]
            return self.head(self.backbone(batch[0])).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.head.parameters(), lr=1.0)

    unfreeze = L.callbacks.BackboneFinetuning(1, backbone_initial_lr=1.0, lambda_func=lambda e: 1.0, should_align=False)
    schedule = LRSchedule("linear", warmup=0, overrides={"^backbone": 0.1}, conflict="replace")
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(12, 4)), 4)
    trainer([unfreeze, schedule], max_epochs=4).fit(Net(), data)
    curve = [1 - i / 12 for i in range(12)]
    assert [r[0] for r in rates] == pytest.approx(curve)
    assert [r[1] for r in rates[3:]] == pytest.approx([0.1 * c for c in curve[3:]])


def test_a_run_that_an_alarm_stopped_is_not_told_that_it_was_short() -> None:
    doctor = TrainingDoctor(every_n_steps=1, action="stop")
    module = Classifier(spoil=lambda i, loss: loss * float("nan") if i >= 3 else loss)
    with pytest.warns(TrickWarning) as caught:
        t = fit(module, [LRSchedule(), doctor], n=480)
    assert t.global_step < 60 and doctor.verdict.alarmed
    assert not any("training ended" in str(w.message) for w in caught)
