"""What modules carry from batch to batch is mended with the weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
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
    assert set(saved) == {"ratio", "state"}
    net.ratio, net.calls = 0.75, 9
    net.state[0][0] = torch.inf
    mend_carried(saved, net)
    assert (net.ratio, net.calls) == (0.75, 9)
    torch.testing.assert_close(net.state, [torch.ones(2), (0.25, torch.zeros(1))])
    net.state[0].fill_(5.0)
    torch.testing.assert_close(saved["state"][0], torch.ones(2))


def test_what_was_nan_before_stays_as_it_is() -> None:
    net = nn.Linear(1, 1)
    net.best = float("inf")
    saved = carried(net)
    mend_carried(saved, net)
    assert saved == {}
    assert net.best == float("inf")
