"""PredictionCollapse and TrainingDoctor on networks whose loss stays where it is at first, and falls soon after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import PredictionCollapse, TrainingDoctor
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore")

UPDATES = 500
Optimizer = Callable[[Any], torch.optim.Optimizer]


class SlowGradients(torch.optim.AdamW):
    """AdamW on gradients to which three times their running mean is added, as Grokfast does (arXiv:2405.20233)."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.means: dict[Tensor, Tensor] = {}

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for p in (p for group in self.param_groups for p in group["params"]):
            mean = self.means.setdefault(p, torch.zeros_like(p)).lerp_(p.grad, 0.02)
            p.grad.add_(mean, alpha=3.0)
        super().step()
        return loss


class Digits(L.LightningModule):
    """Sigmoids over sigmoids: predictions are the same for all images until the first layers have moved."""

    def __init__(self, layers: int, optimizer: Optimizer, warm_up: int = 1) -> None:
        super().__init__()
        hidden = [module for _ in range(layers) for module in (nn.Linear(64, 64), nn.Sigmoid())]
        self.net, self.make, self.warm_up = nn.Sequential(*hidden, nn.Linear(64, 10)), optimizer, warm_up
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.losses.append(float(loss.detach()))
        return {"loss": loss, "logits": logits}

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        rises = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warm_up))
        return [optimizer], [{"scheduler": rises, "interval": "step"}]


def trained(layers: int, optimizer: Optimizer, warm_up: int = 1) -> tuple[Digits, list[str]]:
    """Return a trained module, and the alarms of both detectors."""
    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(x, dtype=torch.float) / 16, torch.tensor(y))
    torch.manual_seed(0)
    module, watched = Digits(layers, optimizer, warm_up), [PredictionCollapse(), TrainingDoctor()]
    run = trainer(watched, max_steps=UPDATES, max_epochs=-1, log_every_n_steps=5)
    run.fit(module, DataLoader(data, 64, shuffle=True))
    return module, [raised.verdict.cause.value for c in watched for raised in c.watch.judge.raised]


LATE: dict[str, tuple[int, Optimizer, int]] = {
    "a long second moment": (4, lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.99, 0.9999)), 1),
    "two long moments": (3, lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.999, 0.9999)), 1),
    "gradients with a memory": (4, lambda p: SlowGradients(p, 1e-3), 1),
    "half of the run warms up": (4, lambda p: torch.optim.AdamW(p, lr=1e-3), UPDATES // 2),
    "a momentum of 0.99": (1, lambda p: torch.optim.SGD(p, lr=3e-3, momentum=0.99), 1),
}


@pytest.mark.parametrize(("layers", "optimizer", "warm_up"), LATE.values(), ids=list(LATE))
def test_a_network_whose_loss_begins_to_fall_late_does_not_ignore_its_inputs(
    layers: int, optimizer: Optimizer, warm_up: int
) -> None:
    module, alarms = trained(layers, optimizer, warm_up)
    early, late = (sum(part) / len(part) for part in (module.losses[30:60], module.losses[-40:]))
    assert early > 2.2 and late < 0.9 * early, "it starts late"
    assert alarms == []


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_a_network_whose_loss_never_begins_to_fall_is_told(momentum: float) -> None:
    module, alarms = trained(1, lambda p: torch.optim.SGD(p, lr=1e-6, momentum=momentum))
    assert min(module.losses[-40:]) > 2.2
    assert {"labels do not follow from inputs", "inputs ignored"} & set(alarms)
    assert alarms.count("weights do not change") == 1
