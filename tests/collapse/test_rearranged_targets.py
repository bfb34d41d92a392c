"""PredictionCollapse on steps that flip, exchange or mix what their batches hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import PredictionCollapse
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS, WIDTH, CLASSES, UPDATES = 640, 8, 4, 240
Step = Callable[[Any, Tensor, Tensor], Tensor]


class Stepped(L.LightningModule):
    """A small network with a step of its own, which returns nothing but the loss."""

    def __init__(self, net: nn.Module, step: Step) -> None:
        super().__init__()
        self.net, self.step = net, step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(self, *batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def alarms(net: nn.Module, step: Step, x: Tensor, y: Tensor) -> list[str]:
    torch.manual_seed(0)
    watch = PredictionCollapse("net")
    run = trainer([watch], max_steps=UPDATES, max_epochs=-1)
    run.fit(Stepped(net, step), DataLoader(TensorDataset(x, y), 64, shuffle=True))
    assert len(watch.watch.judge.history) > 5, "it has not given up"
    return [raised.verdict.cause.value for raised in watch.watch.judge.raised]


def points() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    y = torch.arange(ROWS) % CLASSES
    return 2 * torch.eye(CLASSES).repeat(1, WIDTH // CLASSES)[y] + torch.randn(ROWS, WIDTH), y


def mlp(out: int = CLASSES) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, out))


def permuted(s: Any, x: Tensor, y: Tensor) -> Tensor:
    order = torch.randperm(len(y))
    return F.cross_entropy(s.net(x[order]), y[order])


def unrelated(s: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(s.net(x), y[torch.randperm(len(y))])


def mixed(s: Any, x: Tensor, y: Tensor) -> Tensor:
    """The larger share is that of the batch's own order."""
    order, share = torch.randperm(len(y)), 0.5 + 0.5 * float(torch.rand(()))
    logits = s.net(share * x + (1 - share) * x[order])
    return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])


def opposite(s: Any, x: Tensor, y: Tensor) -> Tensor:
    """The loss of the odd classes, from a label for the even ones."""
    return F.binary_cross_entropy_with_logits(s.net(x).squeeze(1), 1 - y)


def renamed(s: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(s.net(x), CLASSES - 1 - y)


CLASSIFIERS: dict[str, Step] = {
    "samples in another order": permuted,
    "two images in one": mixed,
    "classes with other numbers": renamed,
}


@pytest.mark.parametrize("step", CLASSIFIERS.values(), ids=list(CLASSIFIERS))
def test_labels_are_those_that_the_loss_compares(step: Step) -> None:
    assert alarms(mlp(), step, *points()) == []


def test_a_label_of_two_that_the_step_turns_round_is_no_wrong_sign() -> None:
    x, y = points()
    assert alarms(mlp(1), opposite, x, (y % 2).float()) == []


def test_labels_that_the_step_itself_deals_to_other_samples_are_told() -> None:
    assert set(alarms(mlp(), unrelated, *points())) & {"labels do not follow from inputs", "prediction collapse"}


def images() -> tuple[Tensor, Tensor]:
    """A bright square somewhere in each image is the foreground, and the mask says where it is."""
    torch.manual_seed(0)
    mask = torch.zeros(256, 12, 12, dtype=torch.long)
    for image, (row, column) in zip(mask, torch.randint(8, (256, 2)), strict=True):
        image[row : row + 4, column : column + 4] = 1
    return mask[:, None] + 0.3 * torch.randn(256, 1, 12, 12), mask


def test_masks_that_are_flipped_with_their_images_are_compared_as_they_are_then() -> None:
    def flipped(s: Any, x: Tensor, mask: Tensor) -> Tensor:
        sides = [side for side in (1, 2) if torch.rand(()) < 0.5]
        return F.cross_entropy(s.net(x.flip([side + 1 for side in sides])), mask.flip(sides))

    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    assert alarms(net, flipped, *images()) == []
