"""How long each optimizer's curve is, where a run does not do what its settings say."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_tricks import LRSchedule, TrickError, TrickWarning
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
X = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))


def loader(n: int = 96, batch_size: int = 4) -> Any:
    return DataLoader(TensorDataset(X[torch.arange(n) % 96]), batch_size)


class Players(L.LightningModule):
    """Two optimizers of manual optimization; ``plan`` says how often each steps in a batch of the run."""

    def __init__(self, plan: Callable[[int, int], tuple[int, int]], lr: float = 1.0, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.first, self.second, self.plan, self.lr, self.settings = (
            nn.Linear(4, 1),
            nn.Linear(4, 1),
            plan,
            lr,
            settings,
        )
        self.batches = 0
        self.rates: tuple[list[float], list[float]] = ([], [])
        self.groups: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        times = self.plan(self.trainer.current_epoch, self.trainer.current_epoch * 24 + batch_idx)
        for i, (net, optimizer) in enumerate(zip((self.first, self.second), self.optimizers(), strict=True)):  # type: ignore[arg-type]
            for _ in range(times[i]):
                optimizer.zero_grad()
                self.manual_backward(1e-3 * net(batch[0]).square().mean())
                group = optimizer.param_groups[0]
                self.rates[i].append(float(group["lr"]) / self.lr)
                self.groups[i].append({k: v for k, v in group.items() if k != "params"})
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=self.lr, **self.settings) for net in (self.first, self.second)]


def ideal(count: int) -> list[float]:
    return [1.0 - k / count for k in range(count)]


def farthest(used: list[float], wanted: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(used, wanted, strict=True))


PLANS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "one each": lambda epoch, i: (1, 1),
    "WGAN, five in a batch": lambda epoch, i: (5, 1),
    "WGAN, every fifth batch": lambda epoch, i: (1, int(i % 5 == 4)),
    "every third and every second": lambda epoch, i: (int(i % 3 == 0), int(i % 2 == 1)),
}


@pytest.mark.parametrize("bound", ["max_epochs", "max_steps"])
@pytest.mark.parametrize("name", PLANS)
def test_every_optimizer_has_the_curve_of_its_own_length(name: str, bound: str) -> None:
    module, every = Players(PLANS[name]), sum(sum(PLANS[name](0, i)) for i in range(240))
    limits: dict[str, Any] = {"max_epochs": 10} if bound == "max_epochs" else {"max_epochs": -1, "max_steps": every}
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        trainer([LRSchedule("linear", warmup=0)], **limits).fit(module, loader())
    for rates in module.rates:
        # for one batch it is not known how often it steps, and a sixteenth of the way is the most that this may cost
        assert farthest(rates, ideal(len(rates))) < 0.03, name
        assert min(rates) > 0


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("starts at two thirds", lambda epoch, i: (1, int(i >= 160))),
        ("ends at one third", lambda epoch, i: (1, int(i < 80))),
        ("every second epoch", lambda epoch, i: (int(epoch % 2 == 0), int(epoch % 2 == 1))),
        ("many at first", lambda epoch, i: (20 if i < 10 else 2, 1)),
        ("at random", lambda epoch, i: (1 + (i * 7919) % 3, int((i * 104729) % 7 < 2))),
    ],
)
def test_an_optimizer_that_steps_irregularly_ends_at_the_end_of_its_curve_without_a_jump(
    name: str, plan: Callable[[int, int], tuple[int, int]]
) -> None:
    module = Players(plan)
    trainer([LRSchedule("linear", warmup=0)], max_epochs=10).fit(module, loader())
    for i, rates in enumerate(module.rates):
        steps = [a - b for a, b in itertools.pairwise(rates)]
        assert min(steps) > -1e-9, "it never rises"
        in_first_batch = max(plan(0, b)[i] for b in range(240))
        assert max(steps[in_first_batch + 2 :]) < 12 / len(rates), "and never falls by much at once"
        assert sum(rate == 0 for rate in rates) <= 0.02 * len(rates), "and is not at its end for long"
        if name != "ends at one third" or i == 0:
            assert rates[-1] < (0.2 if name == "every second epoch" else 0.05)


def test_momentum_and_weight_decay_follow_each_optimizers_own_position() -> None:
    module = Players(PLANS["WGAN, five in a batch"], weight_decay=0.4, momentum=0.9)
    schedule = LRSchedule("linear", warmup=0, momentum=(0.95, 0.85), weight_decay_final=0.1)
    trainer([schedule], max_epochs=4).fit(module, loader())
    for rates, groups in zip(module.rates, module.groups, strict=True):
        for k, (rate, group) in enumerate(zip(rates, groups, strict=True)):
            assert group["momentum"] == pytest.approx(0.95 - 0.1 * rate, abs=1e-6)
            share = k / len(rates)
            wanted = 0.1 + 0.3 * (1 + math.cos(math.pi * share)) / 2
            assert group["weight_decay"] == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("fused", [False, True])
def test_a_rate_on_the_device_follows_the_same_curve(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_tricks import GradientClip

    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    module = Players(PLANS["WGAN, five in a batch"], fused=fused)
    trainer([GradientClip(1.0), LRSchedule("cosine", warmup=0)], max_epochs=4).fit(module, loader())
    for rates in module.rates:
        wanted = [(1 + math.cos(math.pi * k / len(rates))) / 2 for k in range(len(rates))]
        assert farthest(rates, wanted) < 0.02


def test_lengths_are_given_for_all_optimizers_or_for_each() -> None:
    module = Players(PLANS["WGAN, five in a batch"])
    trainer([LRSchedule("linear", warmup=0, total={0: 480, 1: "4ep"})], max_epochs=4).fit(module, loader())
    assert farthest(module.rates[0], ideal(480)) < 1e-9
    assert farthest(module.rates[1], ideal(96)) < 1e-9
    module = Players(PLANS["one each"])  # one that is not named takes its length from the Trainer
    trainer([LRSchedule("linear", warmup=0, total={1: 96})], max_epochs=2).fit(module, loader())
    assert farthest(module.rates[0], ideal(48)) < 1e-9
    assert farthest(module.rates[1], ideal(96)[:48]) < 1e-9
    with pytest.raises(TrickError, match=r"there is no optimizer 2; this run has 2"):
        trainer([LRSchedule(total={2: 10})]).fit(Players(PLANS["one each"]), loader())


@pytest.mark.parametrize("total", [{}, {"0": 10}, {-1: 10}, {0: 0}, {0: "50%"}, {True: 10}])
def test_a_dict_of_lengths_that_says_nothing_is_refused(total: Any) -> None:
    with pytest.raises(ValueError, match="total must be a"):
        LRSchedule(total=total)


class Net(L.LightningModule):
    """Automatic optimization; notes the rates that are used."""

    def __init__(self, data: Callable[[int], Any] = lambda epoch: loader()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.data = nn.Linear(4, 1), data
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return 1e-3 * self.net(batch[0]).square().mean()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.rates.append(float(optimizer.param_groups[0]["lr"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> Any:
        return self.data(self.trainer.current_epoch)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[Any]:
        return iter(X[: self.n].split(1))


def stream(n: int) -> Any:
    return DataLoader(Stream(n), 4)


@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_data_that_grow_or_shrink_stretch_what_is_left_of_the_curve(decay: str, grows: bool) -> None:
    sizes = [16 * (e + 1) if grows else 16 * (6 - e) for e in range(6)]
    module = Net(lambda epoch: loader(sizes[epoch]))
    trainer([LRSchedule(decay, warmup=0)], max_epochs=6, reload_dataloaders_every_n_epochs=1).fit(module)
    rates = module.rates
    assert len(rates) == sum(sizes) // 4
    steps = [a - b for a, b in itertools.pairwise(rates)]
    assert min(steps) > 0
    assert max(steps) < 12 / len(rates)
    assert 0 < rates[-1] < 0.1


def test_data_of_unknown_length_that_grow_are_not_at_rate_zero_in_silence() -> None:
    module = Net(lambda epoch: stream(16 * (epoch + 1)))
    with pytest.warns(TrickWarning, match=r"the run goes on after the 56 updates that was forecast: .* stays at 0%"):
        trainer([LRSchedule("linear", warmup=0)], max_epochs=5, reload_dataloaders_every_n_epochs=1).fit(module)


def test_a_run_beyond_total_says_so_only_where_nothing_is_learnt_any_more() -> None:
    with pytest.warns(TrickWarning, match=r"goes on after the 10 updates that total= says: the rate stays at 0%"):
        trainer([LRSchedule("linear", warmup=0, total=10)]).fit(Net())
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        trainer([LRSchedule("linear", warmup=0, total=10, final=0.1)]).fit(Net())


# -- a run that is resumed with another length ------------------------------------------------------------------------


def rates_of(path: Any, first: dict[str, Any], then: dict[str, Any], data: Any = None) -> Any:
    """The rates of a run, and those of the run that goes on from its checkpoint with other settings."""
    schedule = {"decay": "linear", "warmup": 0}
    module = Net(lambda epoch: loader() if data is None else data)
    t = trainer([LRSchedule(**schedule)], **first)
    t.fit(module)
    t.save_checkpoint(path / "a.ckpt")
    resumed = Net(lambda epoch: loader() if data is None else data)
    trainer([LRSchedule(**schedule)], **then).fit(resumed, ckpt_path=path / "a.ckpt")
    return module.rates, resumed.rates


@pytest.mark.parametrize("sized", [True, False])
def test_more_epochs_than_before(tmp_path: Any, sized: bool) -> None:
    before, after = rates_of(tmp_path, {"max_epochs": 3}, {"max_epochs": 6}, None if sized else stream(96))
    wanted = ideal(144) if sized else [1.0] * 24 + ideal(120)
    assert after == pytest.approx(wanted[72:], abs=1e-9)
    assert before[-1] < 0.05


@pytest.mark.parametrize("sized", [True, False])
def test_a_second_fit_of_a_trainer_is_the_same(sized: bool) -> None:
    module = Net(lambda epoch: loader() if sized else stream(96))
    t = trainer([LRSchedule("linear", warmup=0)], max_epochs=3)
    t.fit(module)
    t.fit_loop.max_epochs = 6
    t.fit(module)
    wanted = ideal(144) if sized else [1.0] * 24 + ideal(120)
    assert module.rates[72:] == pytest.approx(wanted[72:], abs=1e-9)


@pytest.mark.parametrize(
    "then",
    [
        {"batch_size": 8},  # 12 batches
        {"batch_size": 2},  # 48
        {"accumulate_grad_batches": 3},  # 8 updates
        {"limit_train_batches": 7},
    ],
    ids=str,
)
def test_another_number_of_updates_in_an_epoch(tmp_path: Any, then: dict[str, Any]) -> None:
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    module = Net()
    t = trainer([LRSchedule("linear", warmup=0), Stop()], max_epochs=4)
    t.fit(module)
    t.save_checkpoint(tmp_path / "a.ckpt")
    settings = dict(then)
    data = loader(batch_size=settings.pop("batch_size", 4))
    resumed = Net(lambda epoch: data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        t = trainer([LRSchedule("linear", warmup=0)], max_epochs=4, **settings)
        t.fit(resumed, ckpt_path=tmp_path / "a.ckpt")
    count = len(resumed.rates)
    assert resumed.rates == pytest.approx(ideal(48 + count)[48:], abs=1e-9)


@pytest.mark.parametrize("stop", [1, 5, 30, 47])
@pytest.mark.parametrize("name", PLANS)
def test_what_was_learnt_of_the_optimizers_survives_a_resume(name: str, stop: int, tmp_path: Any) -> None:
    class Save(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch * 24 + batch_idx == stop:
                trainer.save_checkpoint(tmp_path / "a.ckpt")
                self.done = [len(rates) for rates in pl_module.rates]

    whole, save, resumed = Players(PLANS[name]), Save(), Players(PLANS[name])
    trainer([LRSchedule(warmup="10%"), save], max_epochs=3).fit(whole, loader())
    trainer([LRSchedule(warmup="10%")], max_epochs=3).fit(resumed, loader(), ckpt_path=tmp_path / "a.ckpt")
    for all_rates, rest, done in zip(whole.rates, resumed.rates, save.done, strict=True):
        assert rest == all_rates[done:]


def test_a_checkpoint_of_the_first_version_goes_on_where_it_was(tmp_path: Any) -> None:
    """Its state held one length for all optimizers, as version 0.1.0 wrote it."""

    class Save(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 5:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    whole = Net()
    trainer([LRSchedule("linear", warmup=2), Save()], max_epochs=3).fit(whole)
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    state = next(s for key, s in saved["callbacks"].items() if "LRSchedule" in key)["state"]
    for name in ("courses", "pace", "bounds", "elapsed", "learning"):
        del state[name]
    state["pace"] = {"planned": 72, "end": 71, "learning": False, "learnt": None, "held": 0, "elapsed": 0.0}
    torch.save(saved, tmp_path / "old.ckpt")
    resumed = Net()
    trainer([LRSchedule("linear", warmup=2)], max_epochs=3).fit(resumed, ckpt_path=tmp_path / "old.ckpt")
    assert resumed.rates == pytest.approx(whole.rates[30:], rel=1e-12)
