"""Schedules, precisions and optimizers that people asked about in forums and issue trackers, and their repaired versions.

Rewritten from the subjects of threads and tutorials, on digits. The comment above each scenario says what kind of report it
is from. The names were chosen so that all of them are in the develop half: these scenarios are for development and verify
nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, adam, images, right, script, sgd
from benchmarks.models.trainings import Training

FAMILY = "forum updates"
TRAIN, TEST = images()
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units", "prediction collapse")
LEARN, BATCH = "sanity:all parameters learn", "sanity:overfits one batch"
UNCHANGED = "weights do not change"


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


def dense() -> nn.Module:
    """An MLP on images."""
    return nn.Sequential(nn.Flatten(), t.mlp([64, 64, 64, 10]))


def train(
    seed: int, optimizer: Any = None, loss: Any = crossed, kind: Any = Script, steps: int = 300, **more: Any
) -> Training:
    """Train on images of digits."""
    data, score = more.pop("data", (TRAIN, TEST)), more.pop("score", right(TEST))
    detectors = more.pop("detectors", CLASSES)
    limits = {k: more.pop(k) for k in ("gradient_clip_val",) if k in more}
    make = lambda: kind(dense(), loss, optimizer or adam(2e-3), *data, **more)  # noqa: E731
    return script(seed, make, score, steps, detectors, **limits)


class Anew(Script):
    """The model is made in the loop over batches, and the optimizer knows the first one."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 0 and self.current_epoch == 0:
            self.blank = [copy.deepcopy(self.model)]
        model = copy.deepcopy(self.blank[0])
        loss = F.cross_entropy(model(batch[0]), batch[1])
        self.model.load_state_dict(model.state_dict())
        return loss


def linear(total: int) -> Any:
    """A linear decay to 0 over so many updates."""

    def make(s: Script) -> Any:
        optimizer = torch.optim.AdamW(s.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return make


def one_cycle(s: Script) -> Any:
    """One cycle of the rate that is meant for updates and goes on once in an epoch."""
    optimizer = torch.optim.AdamW(s.parameters(), lr=1e-3)
    return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=300)]


class Private(Script):
    """Gradients are clipped for each sample, added up, and noise is added; option: how much of it."""

    noise = 1.0

    def on_after_backward(self) -> None:
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad.add_(torch.randn_like(p.grad), alpha=self.noise / self.batch)


def clipped(s: Script, batch: Any) -> Tensor:
    """The loss of samples that are weighted so that no gradient of a logit is longer than 1."""
    logits = s.model(batch[0])
    length = (logits.softmax(1) - F.one_hot(batch[1], 10)).norm(dim=1).detach().clamp(min=1)
    return (F.cross_entropy(logits, batch[1], reduction="none") / length).mean()


class Half(Script):
    """Weights and images in half precision."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.model.half()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0].half()).float(), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


def of_half(s: Any) -> Tensor:
    """Accuracy of a model in half precision."""
    return (s.model(TEST[0].half()).argmax(1) == TEST[1]).float().mean()


def sensitive(s: Script, batch: Any) -> Tensor:
    """Cross entropy of images that ask for gradients, as old code does with Variable."""
    return F.cross_entropy(s.model(batch[0].clone().requires_grad_(True)), batch[1])


class Averaged(Script):
    """Weights are averaged in the second half, at a constant rate, and the average is used in the end."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step == 150:
            self.mean = torch.optim.swa_utils.AveragedModel(self.model)
        elif self.global_step > 150 and self.global_step % 10 == 0:
            self.mean.update_parameters(self.model)

    def on_train_end(self) -> None:
        if self.global_step > 150:
            self.model.load_state_dict(self.mean.module.state_dict())


SCENARIOS: list[Scenario] = [
    # PyTorch forum: the model is made inside the loop over batches
    failing(FAMILY, "a model that is made for each batch", 0.8, lambda s: train(s, kind=Anew, detectors={"TrainingDoctor": {}}), *UNRELATED, "no gradients", UNCHANGED, LEARN, BATCH),
    # issue of transformers: the schedule got the number of epochs for the number of updates
    failing(FAMILY, "epochs given for updates in a decay", 0.8, lambda s: train(s, linear(7)), *UNRELATED, UNCHANGED,
            "vanishing gradients"),
    # the repaired code
    healthy(FAMILY, "a linear decay over all updates", 0.9, lambda s: train(s, linear(301))),
    # issue of Lightning: OneCycleLR without interval="step", the rate stays at its start
    healthy(FAMILY, "OneCycleLR without an interval", 0.85, lambda s: train(s, one_cycle)),
    # Opacus tutorial: clipped gradients of samples, and noise
    healthy(FAMILY, "differentially private gradients", 0.8, lambda s: train(s, sgd(0.2, 0.0), clipped, Private, 400, batch=64)),
    # issue of Opacus: a noise multiplier that leaves nothing
    failing(FAMILY, "noise that drowns gradients", 0.6, lambda s: train(
        s, sgd(0.2, 0.0), clipped, type("Drowned", (Private,), {"noise": 60.0}), 400, batch=64), *FAST, *UNRELATED, BATCH),
    # PyTorch forum: Adam on half-precision weights, whose epsilon of 1e-8 is 0
    failing(FAMILY, "Adam in half precision", 0.8, lambda s: train(s, adam(1e-3), kind=Half, score=of_half), "non-finite values", "divergence", BATCH),
    # the repaired code: a larger epsilon
    healthy(FAMILY, "Adam in half precision, epsilon 1e-4", 0.85, lambda s: train(s, adam(1e-3, eps=1e-4), kind=Half, score=of_half)),
    # PyTorch forum: inputs with requires_grad, which does no harm
    healthy(FAMILY, "images that ask for gradients", 0.85, lambda s: train(s, loss=sensitive)),
    # PyTorch documentation of averaged weights
    healthy(FAMILY, "averaged weights", 0.9, lambda s: train(s, sgd(0.1), kind=Averaged)),
]  # fmt: skip
