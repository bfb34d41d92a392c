"""LightningModules in the styles that people write, and what their trainings share: streams of rows and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks.models.trainings import Batches, Training, rows, split

Loss = Callable[[Tensor, Tensor], Tensor]
Optimizer = Callable[[Any], torch.optim.Optimizer]
Score = Callable[[Any], float]
Pair = tuple[Tensor, Tensor]


class Plain(L.LightningModule):
    """Returns the loss alone; batches are tuples of inputs and targets.

    Args:
        net: the network, ``self.net``.
        loss: of its output and the targets.
        optimizer: makes one from the parameters.
        schedule: makes a scheduler, stepped after each update, from the optimizer.
    """

    def __init__(
        self, net: nn.Module, loss: Loss, optimizer: Optimizer, schedule: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__()
        self.net, self.loss, self.make, self.schedule = net, loss, optimizer, schedule

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = self.make(p for p in self.parameters() if p.requires_grad)
        if self.schedule is None:
            return optimizer
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]


class Shared(Plain):
    """One function for training and validation, which returns loss, predictions and targets; batches are dicts."""

    def _step(self, batch: dict[str, Tensor], stage: str) -> dict[str, Tensor]:
        predictions = self(batch["inputs"])
        loss = self.loss(predictions, batch["labels"])
        self.log(f"{stage}_loss", loss)
        return {"loss": loss, "predictions": predictions, "labels": batch["labels"]}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self._step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, "val")


def named(draw: Callable[..., Pair]) -> Callable[..., dict[str, Tensor]]:
    """Turn the tuples of a drawing function into dicts."""

    def made(*given: Any) -> dict[str, Tensor]:
        inputs, labels = draw(*given)
        return {"inputs": inputs, "labels": labels}

    return made


def watched(output: str, target: str = "target", units: bool = True) -> dict[str, dict[str, Any]]:
    """Return the detectors of a supervised training whose predictions and targets have these names."""
    found: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": output, "target": target},
        "TrainingDoctor": {},
    }
    return {**found, "DeadUnits": {}} if units else found


UNITS: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}
NET = watched("net")
DICT = watched("predictions", "labels")


def stream(
    seed: int,
    module: L.LightningModule,
    draw: Callable[[torch.Generator, int], Any],
    score: Score,
    *,
    steps: int = 400,
    detectors: dict[str, dict[str, Any]] = NET,
    validation: Sequence[Any] = (),
    **more: Any,
) -> Training:
    """Train on batches that are drawn from a distribution."""
    if not any(isinstance(m, (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU)) for m in module.modules()):
        detectors = {name: given for name, given in detectors.items() if name != "DeadUnits"}  # (it says so itself)
    return Training(module, Batches(steps, draw, seed), steps, detectors, validation, score=score, **more)


def table(
    seed: int,
    module: Callable[[], L.LightningModule],
    data: tuple[Tensor, ...],
    score: Callable[[tuple[Tensor, ...]], Score],
    *,
    batch: int = 64,
    **more: Any,
) -> Training:
    """Train on rows of a data set, 80 % of it; the others are for validation and the score."""
    torch.manual_seed(seed)
    train, held = split(data, seed)
    return stream(seed, module(), rows(train, batch), score(held), validation=[held], **more)


def fresh(draw: Callable[[torch.Generator, int], Any], seed: int = 999_999) -> Any:
    """Draw one batch that no training sees."""
    return draw(torch.Generator().manual_seed(seed), 0)


@torch.no_grad()
def predict(module: Any, inputs: Any) -> Any:
    """Return the outputs of the trained module, in evaluation mode."""
    return module.eval()(inputs)


def accuracy(held: tuple[Tensor, ...]) -> Score:
    """Share of right answers."""
    return lambda module: float((predict(module, held[0]).argmax(1) == held[1]).float().mean())


def balanced_accuracy(held: tuple[Tensor, ...]) -> Score:
    """Mean recall of the classes: 1 / classes for a constant answer."""

    def score(module: Any) -> float:
        right = (predict(module, held[0]).argmax(1) == held[1]).float()
        return float(torch.stack([right[held[1] == k].mean() for k in held[1].unique()]).mean())

    return score


def auc(held: tuple[Tensor, ...]) -> Score:
    """Area under the ROC curve of single logits or pairs of logits."""

    def score(module: Any) -> float:
        logits = predict(module, held[0])
        logits = logits[:, 1] - logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 2 else logits.reshape(-1)
        return float(roc_auc_score(held[1].reshape(-1).numpy(), logits.numpy()))

    return score


def r2(held: tuple[Tensor, ...]) -> Score:
    """Share of the variance of the targets that the predictions explain; of several targets, the mean."""

    def score(module: Any) -> float:
        predictions, y = predict(module, held[0]), held[1]
        error = (predictions.reshape(y.shape) - y).square().sum(0)
        return float((1 - error / (y - y.mean(0)).square().sum(0)).nan_to_num(-99.0).clamp(min=-99.0).mean())

    return score
