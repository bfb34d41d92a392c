"""Embeddings of two views of digits, with heads and losses of lightly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import digits, probe
from tests.strangers.trainings.training import Ready, Training


def _backbone() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
    )


def view(images: Tensor) -> Tensor:
    """Return images that are moved by a pixel at most, with holes and noise."""
    rows, columns = torch.randint(-1, 2, (2,)).tolist()
    moved = torch.roll(images, (rows, columns), (2, 3))
    return moved * (torch.rand_like(moved) > 0.15) + 0.1 * torch.randn_like(moved)


class _Pairs(L.LightningModule):
    """A backbone and a projection head; subclasses say what two views should agree on."""

    def __init__(self, criterion: Any, head: nn.Module, lr: float = 2e-3) -> None:
        super().__init__()
        self.backbone, self.projection_head, self.criterion, self.lr = _backbone(), head, criterion, lr

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (first, second), _ = batch
        loss = self.criterion(self(first), self(second))
        self.log("train_loss_ssl", loss)
        return loss  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=1e-6)


class _SimSiam(_Pairs):
    def __init__(self, careful: bool) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        head = SimSiamProjectionHead(64, 64, 64)
        super().__init__(NegativeCosineSimilarity(), head)
        self.prediction_head = SimSiamPredictionHead(64, 16, 64)
        self.careful = careful

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (first, second), _ = batch
        z0, z1 = self(first), self(second)
        if self.careful:
            p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
            return 0.5 * (self.criterion(p0, z1.detach()) + self.criterion(p1, z0.detach()))
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


class _DINO(_Pairs):
    """A student that follows a teacher, which is a moving average of it."""

    def __init__(self) -> None:
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        loss = DINOLoss(output_dim=64, warmup_teacher_temp_epochs=2)
        super().__init__(loss, DINOProjectionHead(64, 64, 32, 64, freeze_last_layer=1), lr=1e-3)
        self.teacher_backbone = copy.deepcopy(self.backbone)
        self.teacher_head = DINOProjectionHead(64, 64, 32, 64)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.teacher_backbone, m=0.99)
        update_momentum(self.projection_head, self.teacher_head, m=0.99)
        views, _ = batch
        taught = [self.teacher_head(self.teacher_backbone(x)) for x in views]
        return self.criterion(taught, [self(x) for x in views], epoch=self.current_epoch)  # type: ignore[no-any-return]

    def on_after_backward(self) -> None:
        self.projection_head.cancel_last_layer_gradients(current_epoch=self.current_epoch)


class _SwaV(_Pairs):
    """Assignments to prototypes that Sinkhorn's algorithm makes even."""

    def __init__(self) -> None:
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        super().__init__(SwaVLoss(), SwaVProjectionHead(64, 64, 32))
        self.prototypes = SwaVPrototypes(32, n_prototypes=32)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.prototypes.normalize()
        views, _ = batch
        assigned = [self.prototypes(nn.functional.normalize(self(x), dim=1, p=2)) for x in views]
        return self.criterion(assigned, [])  # type: ignore[no-any-return]


def _two_views(samples: list[tuple[Tensor, Tensor]]) -> Any:
    images, labels = (torch.stack(part) for part in zip(*samples, strict=True))
    return (view(images), view(images)), labels


def _ready(module: _Pairs, scored: str = "") -> Ready:
    x, y, *_ = digits()
    loader = DataLoader(TensorDataset(x, y), 64, shuffle=True, drop_last=True, collate_fn=_two_views)
    embed = module.get_submodule(scored)
    return Ready(module, loader, lambda: probe(module, embed, digits()), trainer={"max_epochs": 10})


def _with(make: Callable[[], _Pairs]) -> Callable[[], Ready]:
    return lambda: _ready(make())


def vicreg(variance: bool) -> _Pairs:
    from lightly.loss import VICRegLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    loss = VICRegLoss() if variance else VICRegLoss(mu_param=0.0, nu_param=0.0)
    return _Pairs(loss, BarlowTwinsProjectionHead(64, 64, 64))


def barlow_twins() -> _Pairs:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    return _Pairs(BarlowTwinsLoss(), BarlowTwinsProjectionHead(64, 64, 64))


_PACKAGE = ("lightly",)
_HEAD = {"RepresentationCollapse": {"layer": "projection_head"}}

TRAININGS = (
    Training("lightly: SimSiam", _with(lambda: _SimSiam(True)), _PACKAGE, 0.4, _HEAD),
    Training("lightly: VICReg", _with(lambda: vicreg(True)), _PACKAGE, 0.4, _HEAD),
    Training("lightly: Barlow Twins", _with(barlow_twins), _PACKAGE, 0.4, _HEAD),
    # (ten epochs say little of its prototypes: it is here for its hook, which takes gradients away for an epoch)
    Training("lightly: DINO", lambda: _ready(_DINO(), "backbone"), _PACKAGE, 0.4),
    Training(
        "lightly: SwaV",
        _with(_SwaV),
        _PACKAGE,
        0.4,
        {**_HEAD, "UsageCollapse": {"assignments": "prototypes", "kind": "prototypes"}},
    ),
    Training(
        "lightly: SimSiam without detach",
        _with(lambda: _SimSiam(False)),
        _PACKAGE,
        0.4,
        _HEAD,
        mistake="the targets are not detached, so that a constant is the cheapest agreement",
    ),
    Training(
        "lightly: VICReg without variance",
        _with(lambda: vicreg(False)),
        _PACKAGE,
        0.4,
        _HEAD,
        mistake="the weights of variance and covariance are 0",
    ),
)
