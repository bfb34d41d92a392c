"""SanityCheck and TrainingDoctor on networks with nothing left to learn, and on those that get no gradient by a fault."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import SanityCheck, TrainingDoctor
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS, WIDTH, CLASSES = 256, 8, 3
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Updated(L.LightningModule):
    """A network and its loss; updates are its own, or Lightning's."""

    def __init__(self, net: nn.Module, loss: Loss, decay: float, manual: bool) -> None:
        super().__init__()
        self.net, self.loss, self.decay = net, loss, decay
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self.net, *batch)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=self.decay)


def told(net: nn.Module, loss: Loss, x: Tensor, y: Tensor, decay: float, manual: bool) -> list[str]:
    """Return what fails and what is found in 60 updates of a copy of the network."""
    check, doctor = SanityCheck(), TrainingDoctor()
    check.prints = False
    torch.manual_seed(0)
    module = Updated(copy.deepcopy(net), loss, decay, manual)
    run = trainer([check, doctor], max_steps=60, max_epochs=-1, log_every_n_steps=2)
    run.fit(module, DataLoader(TensorDataset(x, y), 32, shuffle=True))
    return [c.name for c in check.checks if c.passed is False] + [f.kind.value for f in doctor.findings]


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    return layer


def triplets(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of each of the first class: one of its own and one of another class."""
    z = net(x)
    own, other = z[y == 0], z[y == 1]
    count = min(len(own), len(other))
    return F.triplet_margin_loss(own[:count], own.roll(1, 0)[:count], other[:count], margin=0.2)


def squares(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(net(x), y)


def margins(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.multi_margin_loss(net(x), y)


def optimum(name: str) -> tuple[nn.Module, Loss, Tensor, Tensor]:
    """A network without anything left to learn."""
    torch.manual_seed(0)
    x, weight = torch.randn(ROWS, WIDTH), 2 * torch.randn(CLASSES, WIDTH)
    labels = torch.arange(ROWS) % CLASSES
    far = 9 * torch.eye(WIDTH)[labels] + 0.1 * torch.randn(ROWS, WIDTH)
    known: dict[str, tuple[nn.Module, Loss, Tensor, Tensor]] = {
        "targets that are met": (linear(weight), squares, x, x @ weight.T),
        # (rounding leaves a loss of 1e-13)
        "targets that are met but for rounding": (linear(weight), squares, x, (x.double() @ weight.double().T).float()),
        "margins that are kept": (linear(1e3 * weight), margins, x, (x @ weight.T).argmax(1)),
        "triplets that keep their margin": (linear(torch.eye(WIDTH)), triplets, far, labels),
    }
    return known[name]


OPTIMA = (
    *("targets that are met", "targets that are met but for rounding", "margins that are kept"),
    "triplets that keep their margin",
)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("manual", [False, True], ids=["Lightning's updates", "own updates"])
@pytest.mark.parametrize("name", OPTIMA)
def test_a_network_that_has_nothing_left_to_learn_is_no_fault(name: str, manual: bool, decay: float) -> None:
    assert told(*optimum(name), decay, manual) == []


@pytest.mark.parametrize("manual", [False, True], ids=["Lightning's updates", "own updates"])
def test_a_new_network_without_any_gradient_is_a_fault(manual: bool) -> None:
    """A weight of 0 for each sample."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, 1)), torch.randn(ROWS, WIDTH)
    found = told(net, lambda n, a, b: 0 * F.mse_loss(n(a), b), x, x[:, :1], 0.0, manual)
    assert {"all parameters learn", "no gradients"} <= set(found)


def test_a_trained_network_that_makes_no_step_is_a_fault() -> None:
    """Targets are not met, so that there are gradients: whoever forgets the step has made the fault."""

    class Forgotten(Updated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.manual_backward(self.loss(self.net, *batch))

    net, loss, x, y = optimum("targets that are met")
    check = SanityCheck()
    run = trainer([check], max_steps=1)
    run.fit(Forgotten(net, loss, 0.0, True), DataLoader(TensorDataset(x, y + 1), 32))
    assert [c.evidence for c in check.checks if c.passed is False] == ["no parameter changes in 12 steps"]


@pytest.mark.parametrize("rate", [1e-9, 1e-7])
def test_a_trained_network_that_has_something_left_and_a_rate_that_is_too_low_is_told(rate: float) -> None:
    class Slow(Updated):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=rate)

    net, loss, x, y = optimum("targets that are met")
    doctor = TrainingDoctor()
    run = trainer([doctor], max_steps=60, max_epochs=-1, log_every_n_steps=2)
    run.fit(Slow(net, loss, 0.0, False), DataLoader(TensorDataset(x, y + 1), 32, shuffle=True))
    assert "weights do not change" in [f.kind.value for f in doctor.findings]
