"""Optimizers that wrap another one, that are made anew in mid-run, or that have no rate: counted right, or named."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks import (
    ConflictError,
    GradientClip,
    GradientMonitor,
    LRFinder,
    LRSchedule,
    TrickWarning,
    UnsupportedError,
)
from tests.problems import Memory, trainer, weights
from tests.schedules.problems import Net, data

Optimizer = torch.optim.Optimizer


def sgd(parameters: Any, **options: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, **options)


# -- wrappers ---------------------------------------------------------------------------------------------------------


class Lookalike(Optimizer):
    """In the manner of timm's Lookahead: leaves out super().__init__() on purpose, and shares the groups."""

    def __init__(self, base: Any) -> None:
        self._optimizer_step_pre_hooks: dict[int, Any] = OrderedDict()
        self._optimizer_step_post_hooks: dict[int, Any] = OrderedDict()
        self.base, self.defaults, self.param_groups, self.state = base, base.defaults, base.param_groups, base.state

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)

    def state_dict(self) -> Any:
        return self.base.state_dict()


class OwnZeroGrad(Lookalike):
    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)


class NoHooks(OwnZeroGrad):
    """Without the attributes in which torch keeps its hooks."""

    def __init__(self, base: Any) -> None:
        self.base, self.defaults, self.param_groups, self.state = base, base.defaults, base.param_groups, base.state

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


class StepsTwice(Optimizer):
    """Its own step calls that of the class that it comes from, twice."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(list(parameters), {"lr": 0.1})

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for _ in range(2):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.data.add_(p.grad, alpha=-group["lr"] / 2)
        return loss


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "plain": sgd,
    "no super().__init__()": lambda p: Lookalike(sgd(p)),
    "its own zero_grad": lambda p: OwnZeroGrad(sgd(p)),
    "no hooks": lambda p: NoHooks(sgd(p)),
    "a wrapper in a wrapper": lambda p: NoHooks(Lookalike(sgd(p))),
    "its own step": StepsTwice,
    "Adam inside": lambda p: Lookalike(torch.optim.Adam(p, lr=0.1)),
}


@pytest.mark.parametrize(
    "beside", [[], [GradientMonitor], [lambda: GradientClip(1e6)]], ids=["alone", "monitor", "clip"]
)
@pytest.mark.parametrize("name", WRAPPED)
def test_updates_of_wrappers_are_counted_as_those_of_any_optimizer(name: str, beside: list[Any]) -> None:
    by_hand = [0.1 * m for m in LRSchedule("linear", warmup=4).values(8)]
    expected = Net(WRAPPED[name], by_hand)
    trainer().fit(expected, data())
    module, schedule = Net(WRAPPED[name]), LRSchedule("linear", warmup=4)
    t = trainer([*(make() for make in beside), schedule])
    t.fit(module, data())
    assert module.rates == pytest.approx(by_hand, rel=1e-12)
    assert schedule.run.clock.state_dict()["applied"] == [8]
    torch.testing.assert_close(weights(module), weights(expected), rtol=1e-6, atol=1e-7)
    assert "step" not in vars(t.optimizers[0]), "nothing of us is left"


def test_a_wrapper_that_copies_the_groups_is_refused_by_name() -> None:
    class Copies(Lookalike):
        def __init__(self, base: Any) -> None:
            super().__init__(base)
            self.param_groups = [dict(group) for group in base.param_groups]

        def step(self, closure: Any = None) -> Any:
            return self.base.step(closure)

    with pytest.raises(UnsupportedError, match="Copies wraps SGD and keeps copies of its parameter groups"):
        trainer([LRSchedule()]).fit(Net(lambda p: Copies(sgd(p))), data())


@pytest.mark.parametrize("rate", ["missing", None])
@pytest.mark.parametrize("trick", [LRSchedule, LRFinder])
def test_an_optimizer_without_a_rate_is_refused_by_name(trick: Any, rate: Any) -> None:
    class NoRate(Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(list(parameters), {} if rate == "missing" else {"lr": None})

        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            return closure()

    with pytest.raises(UnsupportedError, match="NoRate has no learning rate of its own in its groups"):
        trainer([trick()]).fit(Net(NoRate), data())


class SGDScheduleFree(torch.optim.SGD):
    """As schedulefree's: it raises where it steps in evaluation mode."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        for group in self.param_groups:
            group["train_mode"] = False

    def train(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = True

    def eval(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = False

    def step(self, closure: Any = None) -> Any:
        assert self.param_groups[0]["train_mode"], "Optimizer was not in train mode when step is called."
        return super().step(closure)


@pytest.mark.parametrize("tells", [False, True])
def test_a_schedule_free_optimizer_in_training_mode_at_a_validation_is_named(tells: bool) -> None:
    class Free(Net):
        def on_train_epoch_start(self) -> None:
            self.trainer.optimizers[0].train()  # type: ignore[attr-defined]

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        def on_validation_start(self) -> None:
            if tells and not self.trainer.sanity_checking:
                self.trainer.optimizers[0].eval()  # type: ignore[attr-defined]

        def on_validation_end(self) -> None:
            self.trainer.optimizers[0].train()  # type: ignore[attr-defined]

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer([GradientMonitor()], max_epochs=2, num_sanity_val_steps=1).fit(Free(SGDScheduleFree), data(), data())
    named = [w for w in said if "SGDScheduleFree: it is schedule-free, and in training mode" in str(w.message)]
    assert len(named) == (0 if tells else 1)


def test_a_decay_beside_a_schedule_free_optimizer_is_named() -> None:
    class Free(Net):
        def on_train_epoch_start(self) -> None:
            self.trainer.optimizers[0].train()  # type: ignore[attr-defined]

    with pytest.warns(TrickWarning, match="SGDScheduleFree is schedule-free: it averages weights in place of a decay"):
        trainer([LRSchedule()]).fit(Free(SGDScheduleFree), data())
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        trainer([LRSchedule("constant", warmup=2)]).fit(Free(SGDScheduleFree), data())


# -- optimizers that are made anew --------------------------------------------------------------------------------------


def set_up_again(module: Any) -> None:
    module.trainer.strategy.setup_optimizers(module.trainer)


def exchange_parameters(module: Any) -> None:
    """As many as before, in the same group: a layer was replaced."""
    module.net[2] = nn.Linear(16, 1)
    (group,) = module.trainer.optimizers[0].param_groups
    group["params"][2:] = list(module.net[2].parameters())


def exchange_groups(module: Any) -> None:
    optimizer = module.trainer.optimizers[0]
    (group,) = optimizer.param_groups
    first, second = group["params"][:2], group["params"][2:]
    optimizer.param_groups = [{**group, "params": second}, {**group, "params": first}]


def another_optimizer(module: Any) -> None:
    module.trainer.strategy.optimizers = [module.make(module.parameters())]


CHANGES: dict[str, Callable[[Any], None]] = {
    "set up again": set_up_again,
    "parameters": exchange_parameters,
    "groups": exchange_groups,
    "another one": another_optimizer,
}


class Changing(Net):
    """Changes its optimizer at the begin of the second epoch of three, and clips and decays by hand if asked to."""

    def __init__(self, change: Callable[[Any], None], when: str, fused: bool, alone: bool) -> None:
        super().__init__(lambda p: sgd(p, fused=fused), scale=1e3)
        self.change, self.when, self.alone = change, when, alone
        self.moves: list[float] = []

    def on_train_epoch_start(self) -> None:
        if self.when == "epoch start" and self.current_epoch == 1:
            self.change(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.when == "batch start" and self.current_epoch == 1 and batch_idx == 0:
            self.change(self)
        self.before = weights(self).clone()
        if self.alone:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = 0.1 * (1 - self.count / 24)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.when == "step" and self.current_epoch == 1 and batch_idx == 0 and not self.alone:
            self.change(self)
            self.before = weights(self).clone()
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        if self.alone:
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.moves.append(float((weights(self) - self.before).norm()))


@pytest.mark.parametrize("when", ["epoch start", "batch start"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_an_optimizer_that_is_made_anew_is_clipped_scheduled_and_counted(name: str, fused: bool, when: str) -> None:
    clip, schedule, logger = GradientClip(1.0), LRSchedule("linear", warmup=0), Memory()
    module = Changing(CHANGES[name], when, fused, alone=False)
    t = trainer([clip, schedule, GradientMonitor()], max_epochs=3, logger=logger)
    t.fit(module, data())
    assert module.rates == pytest.approx([0.1 * (1 - k / 24) for k in range(24)], rel=1e-6)
    for rate, move in zip(module.rates, module.moves, strict=True):
        assert move == pytest.approx(rate, rel=1e-3), "the norm of every update is that of the clipped gradient"
    assert schedule.run.clock.state_dict()["applied"] == [24]
    assert sorted(logger.series("grad/norm")) == list(range(24))
    for optimizer in t.optimizers:
        assert not optimizer._optimizer_step_pre_hooks
        assert not {"grad_scale", "found_inf", "step"} & set(vars(optimizer))
    alone = Changing(CHANGES[name], when, fused, alone=True)
    trainer(max_epochs=3).fit(alone, data())
    torch.testing.assert_close(weights(module), weights(alone), rtol=1e-3, atol=1e-4)


def test_the_dead_optimizer_has_nothing_of_ours_any_more() -> None:
    dead: list[Any] = []

    class Watch(Changing):
        def on_train_epoch_start(self) -> None:
            dead.append(self.trainer.optimizers[0])
            super().on_train_epoch_start()

    trainer([GradientClip(1.0), LRSchedule()], max_epochs=3).fit(
        Watch(set_up_again, "epoch start", True, alone=False), data()
    )
    assert dead[0] is not dead[2]
    for optimizer in dead:
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
        assert not {"grad_scale", "found_inf"} & set(vars(optimizer))


def test_groups_of_an_optimizer_that_is_made_anew_take_the_rates_that_they_come_with() -> None:
    def grouped(parameters: Any) -> Any:
        p = list(parameters)
        return torch.optim.SGD([{"params": p[:2], "lr": 0.1}, {"params": p[2:], "lr": 0.01}], lr=0.1)

    class Other(Net):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.make = grouped
                set_up_again(self)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.rates.append([g["lr"] for g in optimizer.param_groups])  # type: ignore[arg-type]

    module = Other(sgd)
    trainer([LRSchedule("linear", warmup=0)], max_epochs=2).fit(module, data())
    curve = [1 - k / 16 for k in range(16)]
    assert [r[0] for r in module.rates] == pytest.approx([0.1 * c for c in curve])  # type: ignore[index]
    assert [r[1] for r in module.rates[8:]] == pytest.approx([0.01 * c for c in curve[8:]])  # type: ignore[index]


# -- other writers of the rate ------------------------------------------------------------------------------------------


def test_lightnings_weight_averaging_with_a_rate_of_its_own_is_a_conflict() -> None:
    averaging = L.callbacks.StochasticWeightAveraging(swa_lrs=1e-2)
    with pytest.raises(ConflictError, match="StochasticWeightAveraging anneals the learning rate too"):
        trainer([averaging, LRSchedule()], max_epochs=4).fit(Net(sgd), data())


def test_the_rate_of_lightnings_own_finder_is_the_base() -> None:
    class Tuned(Net):
        def __init__(self) -> None:
            super().__init__(lambda p: torch.optim.SGD(p, lr=self.lr))
            self.lr = 1e-3

    module = Tuned()
    finder = L.callbacks.LearningRateFinder(num_training_steps=60, early_stop_threshold=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tricks = [finder, LRSchedule("constant", warmup=0)]
        trainer(tricks, max_epochs=10, enable_checkpointing=True).fit(module, data())
    assert finder.optimal_lr is not None
    assert set(module.rates[-80:]) == {finder.optimal_lr.suggestion()} == {module.lr}
