"""``conflict="replace"``: the run is the one of a module that returns no scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as s

from lightning_tricks import ConflictError, LRSchedule
from lightning_tricks.schedules.own_rates import NoScheduler
from tests.lr_finder.problems import SCHEDULERS, Make
from tests.problems import trainer, weights
from tests.schedules.problems import Net, data


def two_rates(module: Any, kind: str) -> Any:
    p = list(module.parameters())
    groups = [{"params": p[:2]}, {"params": p[2:], "lr": 0.01}]
    if kind == "adam":
        return torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.99))
    return torch.optim.SGD(groups, lr=0.1, momentum=0.7)


class Scheduled(Net):
    """With a scheduler of its own, or without."""

    def __init__(self, make: Make | None, kind: str = "sgd", manual: bool = False) -> None:
        super().__init__(lambda p: None)
        self.scheduler, self.kind, self.automatic_optimization = make, kind, not manual
        self.used: list[Any] = []

    def configure_optimizers(self) -> Any:
        optimizer = two_rates(self, self.kind)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer, 0.5)
        if not self.automatic_optimization:
            return [optimizer], [scheduler]
        config = {"scheduler": scheduler, "interval": "step", "monitor": "monitored"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.used.append([(g["lr"], g.get("momentum"), g.get("betas")) for g in optimizer.param_groups])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.mse_loss(self.net(batch[0]).squeeze(1), batch[1])
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.manual_backward(loss)
        optimizer.step()  # type: ignore[union-attr]
        if self.scheduler is not None:
            self.lr_schedulers().step()  # type: ignore[union-attr]
        return None


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize(("name", "make"), [(name, makes[0]) for name, makes in SCHEDULERS.items()])
def test_the_run_is_the_one_without_the_scheduler(name: str, make: Make, kind: str, manual: bool) -> None:
    if name == "ReduceLROnPlateau" and manual:
        pytest.skip("its step takes a metric; the module would have to pass one")
    replaced = Scheduled(make, kind, manual)
    t = trainer([LRSchedule("cosine", warmup=2, conflict="replace")], max_epochs=2)
    t.fit(replaced, data())
    without = Scheduled(None, kind, manual)
    trainer([LRSchedule("cosine", warmup=2)], max_epochs=2).fit(without, data())
    assert replaced.used == without.used
    assert torch.equal(weights(replaced), weights(without))
    assert "configure_optimizers" not in vars(replaced)
    for config in t.strategy.lr_scheduler_configs:
        assert isinstance(config.scheduler, NoScheduler)


@pytest.mark.filterwarnings("ignore:LRSchedule. training ended")
def test_a_replaced_scheduler_of_manual_optimization_is_saved_and_resumed(tmp_path: Any) -> None:
    def run(epochs: int, **arguments: Any) -> Scheduled:
        module = Scheduled(SCHEDULERS["OneCycleLR"][0], manual=True)
        t = trainer([LRSchedule("linear", warmup=0, total=16, conflict="replace")], max_epochs=epochs)
        t.fit(module, data(), **arguments)
        t.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    half, whole = run(1), run(2)
    resumed = run(2, ckpt_path=tmp_path / "1.ckpt")
    assert [*half.used, *resumed.used] == whole.used
    assert torch.equal(weights(resumed), weights(whole))


def test_a_checkpoint_of_the_replaced_scheduler_can_be_resumed(tmp_path: Any) -> None:
    t = trainer(max_epochs=1)
    t.fit(Scheduled(SCHEDULERS["StepLR"][0], manual=True), data())
    t.save_checkpoint(tmp_path / "a.ckpt")
    module = Scheduled(SCHEDULERS["StepLR"][0], manual=True)
    with pytest.warns(UserWarning, match="the checkpoint holds no schedule"):
        trainer([LRSchedule("constant", warmup=0, conflict="replace")], max_epochs=2).fit(
            module, data(), ckpt_path=tmp_path / "a.ckpt"
        )


def test_the_stand_in_shows_what_a_scheduler_shows() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    stands = NoScheduler(optimizer)
    stands.step()
    stands.step(1.0)
    assert stands.get_last_lr() == [0.3]
    again = NoScheduler(optimizer)
    again.load_state_dict(stands.state_dict())
    assert again.last_epoch == 2
    again.load_state_dict(s.StepLR(optimizer, 3).state_dict())
    assert again.last_epoch == 0


def test_a_rate_that_cannot_be_noted_is_that_of_the_optimizer() -> None:
    """An optimizer that fills its groups itself is not seen; what it was called with is what is left."""

    class FillsItself(torch.optim.SGD):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, lr=0.1, momentum=0.7)
            self.param_groups = [dict(group) for group in self.param_groups]

    def run(make: Callable[[Optimizer], Any] | None) -> list[float]:
        class Other(Net):
            def configure_optimizers(self) -> Any:
                optimizer = FillsItself(self.parameters())
                return optimizer if make is None else ([optimizer], [make(optimizer)])

        module = Other(lambda p: None)
        trainer([LRSchedule("linear", warmup=0, conflict="replace")]).fit(module, data())
        return module.rates

    assert run(lambda o: s.OneCycleLR(o, 2.0, total_steps=9)) == run(lambda o: s.StepLR(o, 3)) == run(None)


def test_a_conflict_is_an_error_that_names_the_scheduler() -> None:
    with pytest.raises(ConflictError, match=r"configure_optimizers returns a scheduler too \(OneCycleLR\)"):
        trainer([LRSchedule()]).fit(Scheduled(SCHEDULERS["OneCycleLR"][0]), data())
