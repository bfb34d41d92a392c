"""What several tests of gradients train or compare: modules, data and functions."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lightning_tricks.optimizer_step.loss_scale import _private_works
from tests.problems import Classifier, loader, trainer


class Gan(L.LightningModule):
    """Two optimizers; the second one's backward leaves gradients on the first one's parameters too."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator, self.discriminator = nn.Linear(64, 64), nn.Linear(64, 1)
        self.true: dict[str, list[float]] = {"generator": [], "discriminator": []}
        self.applied: dict[str, list[float]] = {"generator": [], "discriminator": []}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0]
        for name, optimizer in zip(("discriminator", "generator"), self.optimizers(), strict=True):
            optimizer.zero_grad()
            loss = (self.discriminator(self.generator(x)) - float(name == "generator")).square().mean() * 4
            self.manual_backward(loss)
            parameters = list(getattr(self, name).parameters())
            self.true[name].append(float(nn.utils.get_total_norm([p.grad for p in parameters])))
            before = [p.detach().clone() for p in parameters]
            optimizer.step()
            moved = [a - b for a, b in zip(before, parameters, strict=True)]
            self.applied[name].append(float(nn.utils.get_total_norm(moved)) / 0.01)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(m.parameters(), lr=0.01) for m in (self.discriminator, self.generator)]


def host_reads(callbacks: list[Any], make: Any, precision: str = "32-true", steps: int = 12) -> int:
    """Count host reads of a fit in which no step is logged."""
    _private_works()  # tries the mechanism once per process, on numbers of the host's own
    module = Classifier(make)
    t = trainer(callbacks, precision=precision, log_every_n_steps=1000)
    data = loader(8 * steps)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        t.fit(module, data)
    # (the table of key_averages takes ten times as long as the fit)
    return sum(e.name() == "aten::_local_scalar_dense" for e in profiler.profiler.kineto_results.events())
