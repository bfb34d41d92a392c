"""What modules carry from batch to batch is mended with the weights."""

from __future__ import annotations

import io
from collections import deque
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import Rollback, TrainingDoctor
from lightning_tricks.detection.carried import carried, mend_carried
from tests.problems import trainer


class Stateful(L.LightningModule):
    """Predicts a noisy sine, and keeps the hidden state from window to window; one input of the run is NaN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.head, self.hidden = nn.GRU(1, 8, batch_first=True), nn.Linear(8, 1), None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        out, hidden = self.net(x[:, :-1], self.hidden)
        self.hidden = hidden.detach()
        return (self.head(out) - x[:, 1:]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Baseline(L.LightningModule):
    """A regression whose loss is over a running mean of losses, a plain number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.mean = nn.Linear(4, 1), 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        loss: Tensor = (self.net(x) - x.sum(1, keepdim=True)).square().mean()
        self.mean = 0.9 * self.mean + 0.1 * float(loss)
        return loss / self.mean

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02)


def waves() -> Tensor:
    t = torch.arange(40 * 4 * 16).float()
    return (torch.sin(0.3 * t) + 0.1 * torch.randn(len(t), generator=torch.Generator().manual_seed(1))).view(-1, 16, 1)


def with_one_ruined_row(rows: Tensor) -> Tensor:
    rows = rows.clone()
    rows[4 * 20] = torch.nan
    return rows


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@pytest.mark.parametrize("kind", ["hidden state", "running mean"])
def test_a_rollback_from_nan_goes_on(kind: str) -> None:
    module, rows = (
        (Stateful(), waves())
        if kind == "hidden state"
        else (Baseline(), torch.randn(160, 4, generator=torch.Generator().manual_seed(2)))
    )
    doctor = TrainingDoctor(4, action=Rollback(accumulate_factor=1))
    t = trainer([doctor], max_epochs=1)
    t.fit(module, DataLoader(TensorDataset(with_one_ruined_row(rows)), batch_size=4))
    assert len(doctor.alarms) == 1
    assert t.global_step == 40
    held = module.hidden if isinstance(module, Stateful) else torch.tensor(module.mean)
    assert held is not None
    assert held.isfinite().all()
    assert all(p.isfinite().all() for p in module.parameters())


def test_what_is_a_number_goes_on_and_what_is_none_is_left_alone() -> None:
    net = nn.Linear(1, 1)
    net.ratio, net.state, net.calls, net.words = 0.5, [torch.ones(2), (0.25, torch.zeros(1))], 3, ["a", 1.0]
    saved = carried(net)
    assert set(saved) == {"ratio", "state.0", "state.1.0", "state.1.1", "words.1"}
    net.ratio, net.calls = 0.75, 9
    net.state[0][0] = torch.inf
    mend_carried(saved, net)
    assert (net.ratio, net.calls) == (0.75, 9)
    torch.testing.assert_close(net.state, [torch.ones(2), (0.25, torch.zeros(1))])
    net.state[0].fill_(5.0)
    torch.testing.assert_close(saved["state.0"], torch.ones(2))


def test_what_was_nan_before_stays_as_it_is() -> None:
    net = nn.Linear(1, 1)
    net.best = float("inf")
    saved = carried(net)
    mend_carried(saved, net)
    assert saved == {}
    assert net.best == float("inf")


class Holder:
    """An object of a script."""

    def __init__(self) -> None:
        self.mean, self.calls = torch.zeros(2), 0


def test_numbers_among_others_are_mended_wherever_they_are() -> None:
    net = nn.Linear(1, 1)
    net.stats, net.hidden, net.window = {"mean": torch.zeros(2), "calls": 0, "name": "x"}, None, deque([1.0], maxlen=9)
    net.holder, net.array, net._own = Holder(), np.zeros(2), torch.zeros(1)
    saved = carried(net)
    torch.save(saved, file := io.BytesIO())
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    held, nan = net.holder, float("nan")
    net.stats["mean"], net.stats["calls"], net.hidden = torch.full((2,), nan), 7, (torch.full((3,), nan), 1)
    net.window.extend([2.0, nan, nan])
    held.mean, held.calls, net.array, net._own = torch.full((2,), torch.inf), 5, np.full(2, nan), torch.full((1,), nan)
    mend_carried(saved, net)
    assert (net.stats["mean"].tolist(), net.stats["calls"]) == ([0.0, 0.0], 7)
    assert net.hidden is None
    assert list(net.window) == [1.0, 2.0]
    assert net.holder is held
    assert (held.mean.tolist(), held.calls) == ([0.0, 0.0], 5)
    assert (net.array.tolist(), net._own.tolist()) == ([0.0, 0.0], [0.0])


def test_data_that_a_module_holds_are_neither_copied_nor_looked_through() -> None:
    class Counted(list[float]):
        looks = 0

        def __iter__(self) -> Any:
            Counted.looks += 1
            return super().__iter__()

    net = nn.Identity()
    net.table = [Counted([0.0] * 900) for _ in range(900)]  # type: ignore[assignment]
    net.hidden = torch.zeros(2)
    assert list(carried(net)) == ["hidden"]
    assert Counted.looks < 20
