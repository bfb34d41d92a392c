from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import pytest
import torch

from lightning_tricks import ConflictError, GradientClip, LRSchedule, TrickError, TrickWarning, UnsupportedError
from tests.gradients.plain import Classifier, Memory, digits, fit, loader, sgd, trainer, weights


def closed_form(k: int, total: int, warmup: int, decay: str = "cosine", final: float = 0.0) -> float:
    """The multiplier at update k, written down anew."""
    if k < warmup:
        return (k + 1) / warmup
    x = min(1.0, (k - warmup) / (total - warmup))
    height = {"cosine": 0.5 * (1 + math.cos(math.pi * x)), "linear": 1 - x, "constant": 1.0}[decay]
    return final + (1 - final) * height


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
    monkeypatch.setattr("lightning_tricks.runtime.host.at_hand", lambda value: None)
    rates, logger = Rates(), Memory()
    module = Classifier(lambda p: sgd(p, fused=fused), manual=manual)
    fit(module, [GradientClip(1.0), LRSchedule(warmup=3), rates], logger=logger)
    expected = [0.05 * closed_form(k, 12, 3) for k in range(12)]
    assert [row[0] for row in rates.used[0]] == pytest.approx(expected, rel=1e-6)
    assert list(logger.series("schedule/lr").values()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_skips_do_not_count(fused: bool) -> None:
    rates = Rates()
    schedule = LRSchedule("linear", warmup=0)
    module = Classifier(lambda p: sgd(p, fused=fused))
    with pytest.warns(TrickWarning, match="training ended at update"):
        fit(module, [schedule, rates], n=160, precision="16-mixed", init_scale=2.0**24)
    applied = schedule.run.clock.applied_on_host(0)
    assert 5 < applied < 20
    curve = [0.05 * closed_form(k, 20, 0, "linear") for k in range(21)]
    positions = [min(range(21), key=lambda k: abs(rate - curve[k])) for (rate,) in rates.used[0]]
    assert [row[0] for row in rates.used[0]] == pytest.approx([curve[k] for k in positions], rel=1e-5)
    if fused:  # its step is called for skipped steps too, at the rate of the update that is still to come
        assert positions == sorted(positions)
        assert set(range(applied)) <= set(positions) <= set(range(applied + 1))
    else:
        assert positions == list(range(applied))


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
    from tests.gradients.test_callbacks import host_reads

    monkeypatch.setattr("lightning_tricks.runtime.host.at_hand", lambda value: None)

    def added(steps: int) -> int:
        tricks = [GradientClip(1.0), LRSchedule(total=1000, warmup=10)]
        return host_reads(tricks, lambda p: sgd(p, fused=True), steps=steps)

    def of_torch(steps: int) -> int:  # on a CPU, torch's fused step reads a tensor rate itself
        return host_reads([], lambda p: sgd(p, fused=True, lr=torch.tensor(0.05)), steps=steps)

    with pytest.warns(TrickWarning):
        longer, shorter = added(12), added(6)
    assert longer - shorter == of_torch(12) - of_torch(6)


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
        ({"warmup": 1.5}, TypeError, "whole number or a text"),
        ({"warmup": "120%"}, ValueError, "at most 100%"),
        ({"warmup_shape": "step"}, ValueError, "warmup_shape must be one of"),
        ({"warmup_shape": "exponential"}, ValueError, "warmup_start must be > 0"),
        ({"warmup_start": 2.0}, ValueError, "warmup_start must be >= 0 and <= 1"),
        ({"final": -0.1}, ValueError, "final must be >= 0 and <= 1"),
        ({"decay": "constant", "final": 0.5}, ValueError, "final has no meaning"),
        ({"total": "50%"}, ValueError, "total must be a number of updates or epochs"),
        ({"total": 0}, ValueError, "total must be a number"),
        ({"conflict": "ignore"}, ValueError, "conflict must be one of"),
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
