from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_tricks import (
    AGC,
    ConflictError,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LRSchedule,
    TrickError,
    TrickWarning,
    UnsupportedError,
)
from lightning_tricks.functional import split_sequence
from tests.accumulation.problems import Batch, Gradients, big_batches, errors, feed, flat, ragged, run
from tests.problems import Classifier, Memory, digits, fit, network, precision_arguments, sgd, trainer

SIZES = (8, 8, 8, 8, 5, 8, 3, 8, 8, 2)


@pytest.mark.parametrize("batches", [1, 3, 4, 10, 20])
def test_ragged_batches_and_partial_windows_give_the_big_batchs_gradient(batches: int) -> None:
    data = ragged(SIZES)
    windows = [len(SIZES[i : i + batches]) for i in range(0, len(SIZES), batches)]
    measured, _ = run(GradientAccumulation(batches), data)
    assert max(errors(measured, big_batches(data, windows))) <= 1e-6


def test_lightning_is_off_by_a_lot_on_the_same_data() -> None:  # until lightning>2.6.6 (#19987)
    data, noted = ragged(SIZES), Gradients()
    trainer([noted], accumulate_grad_batches=4).fit(Classifier(), feed(data))
    assert max(errors(noted.rows, big_batches(data, [4, 4, 2]))) > 0.3


@pytest.mark.parametrize("schedule", [{0: 2}, {0: 3, 1: 1, 2: 4}, {1: 4}])
def test_windows_may_change_at_any_update_without_stale_gradients(schedule: dict[int, int]) -> None:
    data = ragged(SIZES)
    windows, left = [], len(data)
    while left:
        reached = [k for k in schedule if k <= len(windows)]
        windows.append(min(left, schedule[max(reached)] if reached else 1))
        left -= windows[-1]
    logger = Memory()
    measured, t = run(GradientAccumulation(schedule), data, logger=logger)
    assert max(errors(measured, big_batches(data, windows))) <= 1e-6
    assert list(logger.series("accumulation/window").values()) == windows
    assert t.global_step == len(windows)
    assert t.accumulate_grad_batches == 1, "put back"


def test_the_documented_way_to_change_lightnings_window_steps_on_stale_gradients() -> None:
    """Until lightning>2.6.6 (#21583): a window that changes in mid-epoch starts with gradients of the one before."""

    class Change(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 8:
                trainer.accumulate_grad_batches = 3

    data, noted = ragged([8] * 12), Gradients()
    trainer([noted, Change()], accumulate_grad_batches=4).fit(Classifier(), feed(data))
    oracle = big_batches(data, [4, 4, 1])
    assert errors(noted.rows[:3], oracle)[2] > 0.3


def test_a_target_size_adapts_the_window_to_the_micro_batches() -> None:
    data = ragged((2, 5, 1, 4, 3, 3, 6, 2, 2, 4, 1, 1))
    trick, logger = GradientAccumulation(target_batch_size=8), Memory()
    measured, _ = run(trick, data, logger=logger)
    assert max(errors(measured, big_batches(data, [3, 3, 2, 4]))) <= 1e-6
    assert list(logger.series("accumulation/batch_size").values()) == [8, 10, 8, 8]
    assert trick.effective_batch_size == 8


class Language(L.LightningModule):
    """The mean cross entropy over tokens whose label is not -100."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = (batch["input_ids"], batch["labels"]) if isinstance(batch, dict) else batch
        return cross_entropy(self.net(x).flatten(0, 1), y.flatten())

    def configure_optimizers(self) -> Any:
        return sgd(self.parameters())


def text(n: int = 8, seed: int = 1) -> list[Batch]:
    draw = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        x, y = (torch.randint(20, (4, 12), generator=draw) for _ in range(2))
        valid = int(torch.randint(1, 12, (), generator=draw))
        out.append((x, y.masked_fill(torch.arange(12) >= valid, -100)))
    return out


def token_oracle(data: list[Batch], windows: Sequence[int]) -> list[Tensor]:
    net, rows, at = Language().net, [], 0
    for n in windows:
        x, y = (torch.cat(part) for part in zip(*data[at : at + n], strict=True))
        at += n
        net.zero_grad()
        cross_entropy(net(x).flatten(0, 1), y.flatten()).backward()
        rows.append(flat(net))
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.05 * p.grad
    return rows


@pytest.mark.parametrize("weight", ["tokens", lambda batch: (batch[1] != -100).sum()])
def test_token_means_are_those_of_the_big_batch(weight: Any) -> None:
    data = text()
    measured, _ = run(GradientAccumulation(3, weight=weight), data, module=Language())
    assert max(errors(measured, token_oracle(data, [3, 3, 2]))) <= 1e-6
    by_samples, _ = run(GradientAccumulation(3), data, module=Language())
    assert max(errors(by_samples, token_oracle(data, [3, 3, 2]))) > 0.02


def test_equal_weights_are_the_mean_of_the_means() -> None:
    data = ragged((8, 2, 4))
    measured, _ = run(GradientAccumulation(3, weight="equal"), data)
    net = network()
    sum(cross_entropy(net(x), y) for x, y in data).div(3).backward()
    assert errors(measured, [flat(net)])[0] <= 1e-6


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("order", [0, 1])
def test_norms_and_clips_see_the_true_gradient(precision: str, fused: bool, order: int) -> None:
    data, logger = ragged(SIZES), Memory()
    oracle = [float(g.norm()) for g in big_batches(data, [4])]
    tricks = [GradientMonitor(), GradientClip(1e9), GradientAccumulation(4, weight="samples")]
    tricks = tricks if order else tricks[::-1]
    module = Classifier(lambda p: sgd(p, fused=fused))
    t = trainer(tricks, precision=precision, logger=logger)
    t.fit(module, feed(data))
    assert logger.series("grad/norm")[0] == pytest.approx(oracle[0], rel=1e-6 if precision == "32-true" else 2e-2)


def clipped_oracle(data: list[Batch], windows: Sequence[int], threshold: float) -> Tensor:
    net, at = copy.deepcopy(network()), 0
    optimizer = sgd(net.parameters())
    for n in windows:
        x, y = (torch.cat(part) for part in zip(*data[at : at + n], strict=True))
        at += n
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), threshold)
        optimizer.step()
    return torch.cat([p.detach().double().flatten() for p in net.parameters()])


@pytest.mark.parametrize("on_oom", ["raise", "split"])
@pytest.mark.parametrize("fused", [False, True])
def test_clipping_after_accumulation_is_clipping_of_the_big_batch(fused: bool, on_oom: Any) -> None:
    data, module = ragged(SIZES), Classifier(lambda p: sgd(p, fused=fused))
    run(GradientAccumulation(4, on_oom=on_oom), data, GradientClip(1.0), module=module)
    expected = clipped_oracle(data, [4, 4, 2], 1.0)
    found = torch.cat([p.detach().double().flatten() for p in module.net.parameters()])
    assert float((found - expected).abs().max()) <= 1e-6


def test_agc_sees_the_true_gradient() -> None:
    from lightning_tricks.functional import adaptive_coefficient

    data, module = ragged((8, 8, 4)), Classifier()
    run(GradientAccumulation(3), data, GradientClip(AGC(0.05)), module=module)
    net = network()
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    cross_entropy(net(x), y).backward()
    with torch.no_grad():
        for p, q in zip(net.parameters(), module.net.parameters(), strict=True):
            assert p.grad is not None
            p -= 0.05 * p.grad * adaptive_coefficient(p.grad, p, 0.05, 1e-3, 1.0)
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_the_noise_scale_works_with_it() -> None:
    logger, plain = Memory(), Memory()
    data = ragged([8] * 8)
    trainer([GradientMonitor(noise_scale=True), GradientAccumulation(4)], logger=logger).fit(Classifier(), feed(data))
    trainer([GradientMonitor(noise_scale=True)], logger=plain, accumulate_grad_batches=4).fit(Classifier(), feed(data))
    ours, theirs = (x.series("grad/noise_scale") for x in (logger, plain))
    assert len(ours) == 2
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-4)


# -- the learning rate ------------------------------------------------------------------------------------------------


class Rates(L.Callback):
    def __init__(self) -> None:
        self.used: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.used.append(float(optimizer.param_groups[0]["lr"]))


@pytest.mark.parametrize(
    ("arguments", "factors"),
    [
        ({"batches": 4, "lr_scaling": "linear"}, [4, 4, 4]),
        ({"batches": 4, "lr_scaling": "sqrt"}, [2, 2, 2]),
        ({"batches": {0: 1, 2: 4}, "lr_scaling": "linear"}, [1, 1, 4, 4]),
        ({"target_batch_size": 20, "lr_scaling": "linear"}, [2.5, 2.5, 2.5, 2.5]),
        ({"batches": 4}, [1, 1, 1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_rate_follows_the_effective_batch(arguments: Any, factors: list[float], scheduled: bool) -> None:
    rates, data, logger = Rates(), ragged([8] * 10), Memory()
    known = {"total": len(factors)} if "target_batch_size" in arguments else {}
    schedule = [LRSchedule("linear", warmup=0, **known)] if scheduled else []
    run(GradientAccumulation(**arguments), data, *schedule, rates, logger=logger)
    told = list(logger.series("accumulation/lr_factor").values())
    assert told == (pytest.approx(factors) if "lr_scaling" in arguments else [])
    n = len(factors)
    curve = [1 - k / n for k in range(n)] if scheduled else [1.0] * n
    assert rates.used == pytest.approx([0.05 * f * c for f, c in zip(factors, curve, strict=True)], rel=1e-12)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_scaled_rate_is_scaled_once_also_after_a_resume(scheduled: bool, tmp_path: Any) -> None:
    def tricks() -> list[Any]:
        return [GradientAccumulation(2, lr_scaling="linear")] + (
            [LRSchedule("constant", warmup=0)] if scheduled else []
        )

    data = feed(ragged([8] * 4))
    t = trainer(tricks(), max_epochs=1)
    t.fit(Classifier(), data)
    t.save_checkpoint(tmp_path / "a.ckpt")
    rates = Rates()
    trainer([*tricks(), rates], max_epochs=2).fit(Classifier(), data, ckpt_path=tmp_path / "a.ckpt")
    assert rates.used == pytest.approx([0.1, 0.1])


def test_the_schedules_length_is_that_of_the_windows() -> None:
    for arguments, updates in (({"batches": {0: 1, 2: 4}}, 4), ({"batches": 3}, 4)):
        schedule = LRSchedule(warmup=0)
        run(GradientAccumulation(**arguments), ragged([8] * 10), schedule)
        assert schedule._horizon.tracks[0].curves[0].total == updates
    schedule, data = LRSchedule(warmup=0), DataLoader(digits(80), batch_size=8)
    trainer([schedule, GradientAccumulation(target_batch_size=20)]).fit(Classifier(), data)
    assert schedule._horizon.tracks[0].curves[0].total == schedule.run.clock.applied_on_host(0) == 4


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{"batches": 4}, {"batches": {0: 4}}])
def test_a_run_resumed_in_mid_window_goes_on_with_the_exact_mean_of_what_is_left(arguments: Any, tmp_path: Any) -> None:
    data = ragged([8, 8, 8, 8, 8, 8, 5, 3])

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 5:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    trainer([GradientAccumulation(**arguments), Stop()]).fit(Classifier(), feed(data))
    seen: list[Batch] = []

    class See(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch)

    noted = Gradients()
    t = trainer([See(), GradientAccumulation(**arguments), noted])
    t.fit(Classifier(), feed(data), ckpt_path=tmp_path / "mid.ckpt")
    assert len(seen) == 2
    before = Classifier()
    before.load_state_dict(torch.load(tmp_path / "mid.ckpt", weights_only=True)["state_dict"])
    x, y = (torch.cat(part) for part in zip(*seen, strict=True))
    cross_entropy(before.net(x), y).backward()
    assert errors(noted.rows, [flat(before.net)])[0] <= 1e-6


def test_a_run_resumed_between_windows_is_the_uninterrupted_one(tmp_path: Any) -> None:
    data = ragged(SIZES)

    def tricks() -> list[Any]:
        return [GradientAccumulation({0: 2, 3: 3}), LRSchedule(warmup=2), GradientClip(1.0)]

    class Save(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    whole, resumed = Classifier(), Classifier()
    trainer([*tricks(), Save()], max_epochs=2).fit(whole, feed(data))
    trainer(tricks(), max_epochs=2).fit(resumed, feed(data), ckpt_path=tmp_path / "a.ckpt")
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


# -- what is logged ---------------------------------------------------------------------------------------------------


def test_the_loss_that_other_callbacks_and_loggers_see_is_the_true_one() -> None:
    seen: list[float] = []

    class See(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(float(outputs["loss"]))

    data = ragged([8] * 4)
    trainer([GradientAccumulation(4), See()]).fit(Classifier(), feed(data))
    net = network()
    assert seen == pytest.approx([float(cross_entropy(net(x), y).detach()) for x, y in data], rel=1e-6)


# -- memory runs out --------------------------------------------------------------------------------------------------


class HungryLanguage(Language):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch[0].numel() > 24:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return super().training_step(batch, batch_idx)


def test_sequences_can_be_shortened_instead() -> None:
    data = text(4)
    trick = GradientAccumulation(2, weight="tokens", on_oom="split", split_fn=split_sequence)
    full = [(x, y.clamp(min=0)) for x, y in data]
    with pytest.warns(TrickWarning, match="1/2 of a batch"):
        measured, _ = run(trick, full, module=HungryLanguage())
    assert max(errors(measured, token_oracle(full, [2, 2]))) <= 1e-6


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_accumulates_too_is_refused_by_name() -> None:
    with pytest.raises(ConflictError, match=r"Trainer\(accumulate_grad_batches=\) accumulates too"):
        fit(Classifier(), [GradientAccumulation(2)], accumulate_grad_batches=2)
    with pytest.raises(ConflictError, match="GradientAccumulationScheduler accumulates too"):
        fit(Classifier(), [GradientAccumulation(2), GradientAccumulationScheduler({0: 2})])


def test_what_cannot_be_exact_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="manual optimization steps when the module says so"):
        fit(Classifier(manual=True), [GradientAccumulation(2)])
    with pytest.raises(UnsupportedError, match="LBFGS evaluates a window several times"):
        fit(Classifier(lambda p: torch.optim.LBFGS(p)), [GradientAccumulation(2)])

    class DeepSpeedStrategy(L.strategies.SingleDeviceStrategy):
        pass

    with pytest.raises(UnsupportedError, match="DeepSpeedStrategy is not supported"):
        fit(Classifier(), [GradientAccumulation(2)], strategy=DeepSpeedStrategy("cpu"))

    class Own(Classifier):
        def backward(self, loss: Tensor) -> None:
            loss.backward()

    with pytest.raises(UnsupportedError, match=r"Own\.backward is overridden"):
        fit(Own(), [GradientAccumulation(2, on_oom="split")])

    def with_scheduler(parameters: Any) -> Any:
        optimizer = sgd(parameters)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.1)}

    with pytest.raises(TrickError, match="the module's own scheduler overwrites a scaled rate"):
        fit(Classifier(with_scheduler), [GradientAccumulation(2, lr_scaling="linear")])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batches": 0}, ValueError, "batches must be a whole number >= 1"),
        ({"batches": 1.5}, TypeError, "batches must be a whole number"),
        ({"batches": {}}, ValueError, "batches must not be empty"),
        ({"batches": {-1: 2}}, ValueError, "batches must be a whole number >= 0"),
        ({"batches": {0: 0}}, ValueError, "batches must be a whole number >= 1"),
        ({"batches": 2, "target_batch_size": 8}, ValueError, "exclude each other"),
        ({"target_batch_size": 0}, ValueError, "target_batch_size must be a whole number >= 1"),
        ({"target_batch_size": 8, "weight": "equal"}, ValueError, "a target size needs weights that are sizes"),
        ({"weight": "token"}, ValueError, "Did you mean 'tokens'"),
        ({"on_oom": "halve"}, ValueError, "on_oom must be one of raise, split"),
        ({"lr_scaling": "square"}, ValueError, "lr_scaling must be one of none, linear, sqrt"),
        ({"split_fn": split_sequence}, ValueError, "split_fn is used with on_oom='split' only"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradientAccumulation(**arguments)


def test_equal_full_windows_cost_no_read_and_no_write_of_gradients() -> None:
    """Neither a host read, nor an operation on gradients, beyond what Lightning does."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    def operations(accumulating: bool) -> list[str]:
        data = feed(ragged([8] * 8))
        tricks = [GradientAccumulation(4)] if accumulating else []
        t = trainer(tricks, log_every_n_steps=100, **({} if accumulating else {"accumulate_grad_batches": 4}))
        with Count() as count:
            t.fit(Classifier(), data)
        return [name for name in count.names if "foreach" in name or "local_scalar" in name or "reduce" in name]

    assert sorted(operations(True)) == sorted(operations(False))


def test_precision_plugin_arguments_of_the_tests_are_real() -> None:
    assert math.isfinite(precision_arguments("16-mixed")["plugins"][0].scaler.get_scale())
