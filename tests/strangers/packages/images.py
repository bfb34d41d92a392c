"""Images: networks of segmentation-models-pytorch and of lightly, in modules as their documentation writes them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.strangers.stranger import QUIET, Stranger


def _fit(module: Any, loader: Any, callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None) -> None:
    L.Trainer(callbacks=callbacks, **{**QUIET, "max_epochs": 2, **arguments}).fit(module, loader, ckpt_path=checkpoint)


class _Shapes(Dataset[dict[str, Tensor]]):
    """Bright rectangles on noise, and where they are."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        mask = torch.zeros(1, 32, 32)
        mask[:, index % 16 : index % 16 + 12, 4:20] = 1
        return {"image": mask + 0.3 * torch.randn(3, 32, 32, generator=generator), "mask": mask}


class _Segmentation(L.LightningModule):
    """The module of the package's binary segmentation example: statistics are gathered over the epoch."""

    def __init__(self) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        self.model = smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 8), classes=1)
        # (``get_preprocessing_params`` would ask the network for these)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.loss_fn = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True)
        self.training_step_outputs: list[dict[str, Tensor]] = []

    def forward(self, image: Tensor) -> Tensor:
        return self.model((image - self.mean) / self.std)  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        import segmentation_models_pytorch as smp

        logits = self(batch["image"])
        loss = self.loss_fn(logits, batch["mask"])
        found = (logits.sigmoid() > 0.5).long()
        tp, fp, fn, tn = smp.metrics.get_stats(found, batch["mask"].long(), mode="binary")
        self.training_step_outputs.append({"loss": loss, "tp": tp, "fp": fp, "fn": fn, "tn": tn})
        return {"loss": loss, "tp": tp, "fp": fp, "fn": fn, "tn": tn}

    def on_train_epoch_end(self) -> None:
        import segmentation_models_pytorch as smp

        counts = [torch.cat([step[name] for step in self.training_step_outputs]) for name in ("tp", "fp", "fn", "tn")]
        self.log("train_dataset_iou", smp.metrics.iou_score(*counts, reduction="micro"))
        self.training_step_outputs.clear()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12, eta_min=1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def unet(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    L.seed_everything(0, verbose=False)
    _fit(_Segmentation(), DataLoader(_Shapes(), 4, shuffle=True), callbacks, arguments, checkpoint)


# -- self-supervised --------------------------------------------------------------------------------------------------


class _Views(Dataset[Any]):
    """Two noisy views of an image, a label that says nothing, and a file name, as lightly's collate gives them."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[list[Tensor], int, str]:
        image = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return [image + 0.1 * torch.randn(3, 16, 16) for _ in range(2)], 0, f"{index}.png"


def _backbone() -> nn.Module:
    from torchvision.models import resnet18

    network = resnet18(width_per_group=64)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        *list(network.children())[3:4],
        nn.Conv2d(8, 16, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class _BYOL(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.backbone = _backbone()
        self.projection_head = BYOLProjectionHead(16, 32, 8)
        self.prediction_head = BYOLPredictionHead(8, 32, 8)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x: Tensor) -> Tensor:
        return self.prediction_head(self.projection_head(self.backbone(x)))  # type: ignore[no-any-return]

    def forward_momentum(self, x: Tensor) -> Tensor:
        return self.projection_head_momentum(self.backbone_momentum(x)).detach()  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(self.current_epoch, 10, 0.9, 1)
        update_momentum(self.backbone, self.backbone_momentum, m=momentum)
        update_momentum(self.projection_head, self.projection_head_momentum, m=momentum)
        first, second = batch[0]
        one = self.criterion(self(first), self.forward_momentum(second))
        other = self.criterion(self(second), self.forward_momentum(first))
        return 0.5 * (one + other)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.06)


class _MoCo(L.LightningModule):
    """With a memory bank inside of the loss, and batches shuffled for the teacher."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.backbone = _backbone()
        self.projection_head = MoCoProjectionHead(16, 16, 8)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NTXentLoss(memory_bank_size=(64, 8))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        from lightly.models.utils import batch_shuffle, batch_unshuffle, update_momentum

        update_momentum(self.backbone, self.backbone_momentum, m=0.9)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.9)
        query, key = batch[0]
        query = self.projection_head(self.backbone(query).flatten(start_dim=1))
        key, shuffle = batch_shuffle(key)
        key = self.projection_head_momentum(self.backbone_momentum(key)).detach()
        loss = self.criterion(query, batch_unshuffle(key, shuffle))
        self.log("train_loss", loss)
        return loss  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.06, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)]


def byol(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    L.seed_everything(0, verbose=False)
    _fit(_BYOL(), DataLoader(_Views(), 8, shuffle=True, drop_last=True), callbacks, arguments, checkpoint)


def moco(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    L.seed_everything(0, verbose=False)
    _fit(_MoCo(), DataLoader(_Views(), 8, shuffle=True, drop_last=True), callbacks, arguments, checkpoint)


_LIGHTLY: dict[str, Any] = {"package": "lightly", "imports": ("lightly.loss", "lightly.models.modules")}

STRANGERS = (
    Stranger(
        "segmentation-models-pytorch Unet",
        unet,
        package="segmentation-models-pytorch",
        imports=("segmentation_models_pytorch",),
    ),
    Stranger("lightly BYOL", byol, **_LIGHTLY),
    Stranger("lightly MoCo", moco, **_LIGHTLY),
)
