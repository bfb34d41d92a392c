"""The rate that was found, beside a scheduler of the user's own: the run is the one in which it was written by hand."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as s
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import LRFinder, LRSchedule, TrickWarning
from lightning_tricks.lr_finder.base_rates import base_rates
from lightning_tricks.optimizer_step.scheduled_rates import multiply_rates
from tests.lr_finder.problems import SCHEDULERS, STEPS, Make
from tests.problems import trainer

NO_RULE = {"LRScheduler"}  # the base class


class Net(L.LightningModule):
    def __init__(self, make: Make | None, lr: float, groups: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 1)
        self.make, self.lr, self.groups = make, lr, groups
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return nn.functional.mse_loss(self.second(torch.tanh(self.first(x))).squeeze(1), y)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append([[float(g["lr"]), g.get("momentum")] for g in optimizer.param_groups])

    def configure_optimizers(self) -> Any:
        second = {"params": self.second.parameters()} | ({"lr": self.lr / 10} if self.groups else {})
        optimizer = torch.optim.SGD([{"params": self.first.parameters()}, second], lr=self.lr, momentum=0.9)
        if self.make is None:
            return optimizer
        scheduler = self.make(optimizer, self.lr)
        config = {"scheduler": scheduler, "interval": "step", "monitor": "monitored"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("monitored", 1.0)


X = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))


def data() -> Any:
    return DataLoader(TensorDataset(X, X.sum(1)), batch_size=8)


def runs(make: Make, groups: bool) -> tuple[Net, Net]:
    finder = LRFinder(num_steps=60, max_lr=100.0)
    found = Net(make, 1e-3, groups)
    trainer([finder], max_epochs=2).fit(found, data())
    assert finder.result is not None and finder.result.suggestion is not None
    by_hand = Net(make, finder.result.suggestion, groups)
    trainer(max_epochs=2).fit(by_hand, data())
    return found, by_hand


@pytest.mark.filterwarnings("ignore:.*call `lr_scheduler.step")
@pytest.mark.parametrize("groups", [False, True], ids=["one rate", "a rate for each group"])
@pytest.mark.parametrize(("name", "make"), [(name, make) for name, makes in SCHEDULERS.items() for make in makes])
def test_the_run_is_the_one_in_which_the_rate_was_written_by_hand(name: str, make: Make, groups: bool) -> None:
    found, by_hand = runs(make, groups)
    assert len(found.seen) == STEPS
    torch.testing.assert_close(torch.tensor(found.seen), torch.tensor(by_hand.seen), rtol=1e-9, atol=0.0)
    for p, q in zip(found.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_no_scheduler_of_torch_is_forgotten() -> None:
    assert set(SCHEDULERS) | NO_RULE == {*s.__all__, "SWALR"}


def test_the_found_rate_holds_in_a_second_fit_of_the_trainer() -> None:
    finder = LRFinder(num_steps=60, max_lr=100.0)
    for tricks in ([finder], [finder, LRSchedule("constant", warmup=0)]):
        module = Net(None, 1e-3, False)
        t = trainer(tricks)
        t.fit(module, data())
        t.fit_loop.max_epochs = 2
        t.fit(module, data())
        assert finder.result is not None and finder.result.suggestion is not None
        rates = [row[0][0] for row in module.seen]
        assert len(rates) == 24
        assert rates == pytest.approx([finder.result.suggestion] * 24, rel=1e-9)


def test_a_resume_of_a_run_that_had_no_finder_says_that_it_is_too_late(tmp_path: Any) -> None:
    t = trainer()
    t.fit(Net(None, 1e-3, False), data())
    t.save_checkpoint(tmp_path / "a.ckpt")
    module = Net(None, 1e-3, False)
    with pytest.warns(TrickWarning, match="LRFinder: not run, since training is at step 12"):
        trainer([LRFinder()], max_epochs=2).fit(module, data(), ckpt_path=tmp_path / "a.ckpt")
    assert {row[0][0] for row in module.seen} == {1e-3}


class Foreign:
    """As timm's schedulers: not of torch's kind, with values of its own."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.base_values = optimizer, [g["lr"] for g in optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_a_scheduler_whose_rates_are_not_known_is_named() -> None:
    class WithForeign(Net):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step()

    module = WithForeign(lambda optimizer, lr: Foreign(optimizer), 1e-3, False)
    with pytest.warns(TrickWarning, match=r"Foreign is not a scheduler of torch's kind: .*Write lr=.* into your code"):
        trainer([LRFinder(num_steps=60, max_lr=100.0)]).fit(module, data())


class Lazy(Net):
    def __init__(self, lr: float) -> None:
        super().__init__(None, lr, False)
        torch.manual_seed(0)
        self.first, self.second = nn.LazyLinear(16), nn.LazyLinear(1)


def test_parameters_that_have_no_size_yet_are_found_a_rate_for() -> None:
    finder = LRFinder(num_steps=60, max_lr=100.0)
    found = Lazy(1e-3)
    trainer([finder]).fit(found, data())
    assert finder.result is not None and finder.result.suggestion is not None
    by_hand = Lazy(finder.result.suggestion)
    trainer().fit(by_hand, data())
    for p, q in zip(found.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(p, q)


class Transferring(L.LightningDataModule):
    """Changes batches on their way to the device."""

    def train_dataloader(self) -> Any:
        return data()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 1, batch[1]

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return {"x": batch[0].to(device), "y": batch[1].to(device)}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return 2 * batch["x"], batch["y"]


def test_hooks_of_a_datamodule_see_the_batches_of_the_sweep() -> None:
    finder = LRFinder(num_steps=60, max_lr=100.0)
    found = Net(None, 1e-3, False)
    trainer([finder]).fit(found, datamodule=Transferring())
    assert finder.result is not None and finder.result.suggestion is not None
    changed = DataLoader(TensorDataset(2 * (X + 1), X.sum(1)), batch_size=8)
    again = LRFinder(num_steps=60, max_lr=100.0)
    trainer([again]).fit(Net(None, 1e-3, False), changed)
    assert again.result is not None
    assert finder.result.losses == pytest.approx(again.result.losses, rel=1e-5)


def test_rates_on_the_device_are_multiplied_in_place() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.1))
    rate = optimizer.param_groups[0]["lr"]
    assert base_rates(optimizer, []) == pytest.approx([0.1])
    multiply_rates(optimizer, [], 3.0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.3)
