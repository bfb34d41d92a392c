"""Images: networks of timm, segmentation with segmentation-models-pytorch, augmentations and losses of kornia."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import accuracy, digits
from tests.strangers.trainings.training import Ready, Training


class _Classifier(L.LightningModule):
    """A network of timm, with a cross entropy."""

    def __init__(self, model: nn.Module, rate: float = 2e-3) -> None:
        super().__init__()
        self.model, self.rate = model, rate
        self.criterion: Any = nn.CrossEntropyLoss()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = self.criterion(self(images), labels)
        self.log("train_loss", loss)
        return loss  # type: ignore[no-any-return]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.rate)


def _ready(module: _Classifier, epochs: int = 4, batch: int = 32) -> Ready:
    x, y, new, labels = digits()
    loader = DataLoader(TensorDataset(x, y), batch, shuffle=True, drop_last=True)
    held_out = DataLoader(TensorDataset(new, labels), 100)
    return Ready(module, loader, lambda: accuracy(module, module, new, labels), held_out, {"max_epochs": epochs})


def _vit() -> Any:
    import timm

    small = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 32, "depth": 3, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=10, **small)


def transformer() -> Ready:
    return _ready(_Classifier(_vit(), 3e-3), epochs=12)


def residual() -> Ready:
    import timm

    return _ready(_Classifier(timm.create_model("test_resnet", pretrained=False, in_chans=1, num_classes=10)))


class _Mixed(_Classifier):
    """Mixup of timm: images and labels of two samples; a label is then a distribution."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        from timm.data import Mixup
        from timm.loss import SoftTargetCrossEntropy

        self.mixup = Mixup(mixup_alpha=0.4, cutmix_alpha=0.0, label_smoothing=0.1, num_classes=10)
        self.criterion = SoftTargetCrossEntropy()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        # (the package's Mixup makes its targets where it is told to)
        images, shares = self.mixup(images.clone(), labels)
        return self.criterion(self(images), shares)  # type: ignore[no-any-return]


def mixed() -> Ready:
    return _ready(_Mixed(_convolutions()), epochs=6)


class _Probabilities(_Classifier):
    """A softmax over the batch in front of a cross entropy, which takes one itself."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).softmax(0)  # type: ignore[no-any-return]


def softmax_over_the_batch() -> Ready:
    return _ready(_Probabilities(_vit(), 3e-3), epochs=12)


class _Probe(_Classifier):
    """A linear probe: the features are frozen, and the optimizer has the head."""

    def __init__(self, model: Any, late: bool) -> None:
        super().__init__(model)
        for parameter in model.parameters():
            parameter.requires_grad = False
        model.reset_classifier(10)
        self.optimizer = torch.optim.AdamW(model.get_classifier().parameters(), lr=1e-2)
        if late:
            model.reset_classifier(10)

    def configure_optimizers(self) -> Any:
        return self.optimizer


def probe(late: bool) -> Ready:
    import timm

    return _ready(_Probe(timm.create_model("test_resnet", pretrained=False, in_chans=1), late))


# -- segmentation ------------------------------------------------------------------------------------------------------


def _scenes(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Digits on noise, each in a corner of an image of 32 x 32 pixels, and the pixels of their strokes."""
    x, *_ = digits()
    generator = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.randn(number, 1, 32, 32, generator=generator)
    masks = torch.zeros(number, 1, 32, 32)
    for i in range(number):
        row, column = (int(value) for value in torch.randint(0, 24, (2,), generator=generator))
        digit = x[int(torch.randint(len(x), (), generator=generator))]
        images[i, :, row : row + 8, column : column + 8] += digit
        masks[i, :, row : row + 8, column : column + 8] = (digit > 0.5).float()
    return images, masks


class _Segmentation(L.LightningModule):
    def __init__(self, loss: Any, activation: Any = None, rate: float = 3e-3) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        size = {"encoder_depth": 3, "decoder_channels": (16, 8, 8), "in_channels": 1, "classes": 1}
        self.model = smp.Unet("resnet18", encoder_weights=None, activation=activation, **size)
        self.loss_fn, self.rate, self.bounded = loss, rate, activation is not None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, masks = batch
        loss = self.loss_fn(self.model(images), masks)
        self.log("train_loss", loss)
        return loss  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.rate)


def _segment(module: _Segmentation, epochs: int = 5) -> Ready:
    new, masks = _scenes(60, 1)

    @torch.no_grad()
    def score() -> float:
        module.eval()
        found, true = module.model(new) > (0.5 if module.bounded else 0.0), masks > 0.5
        return float((found & true).sum() / (found | true).sum())

    return Ready(module, DataLoader(TensorDataset(*_scenes(160, 0)), 8, True), score, trainer={"max_epochs": epochs})


def dice() -> Ready:
    import segmentation_models_pytorch as smp

    return _segment(_Segmentation(smp.losses.DiceLoss("binary", from_logits=True)))


def focal() -> Ready:
    """The focal loss of kornia, on 2 % of foreground."""
    from kornia.losses import BinaryFocalLossWithLogits

    return _segment(_Segmentation(BinaryFocalLossWithLogits(alpha=0.75, gamma=2.0, reduction="mean")))


def sigmoid_twice() -> Ready:
    """The network has a sigmoid of its own, and the loss takes one as well."""
    import segmentation_models_pytorch as smp

    return _segment(_Segmentation(smp.losses.SoftBCEWithLogitsLoss(), activation="sigmoid"))


class _Augmented(_Classifier):
    """Augmentations of kornia, drawn in each step."""

    def __init__(self) -> None:
        super().__init__(_convolutions())
        import kornia.augmentation as K

        self.augment = nn.Sequential(
            K.RandomAffine(degrees=10.0, translate=(0.1, 0.1), p=0.8), K.RandomErasing(scale=(0.05, 0.1), p=0.3)
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            images = self.augment(images)
        return F.cross_entropy(self(images), labels)


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def augmented() -> Ready:
    return _ready(_Augmented(), epochs=6)


_LOGITS = {"PredictionCollapse": {"output": "model"}}
_TIMM = ("timm",)

TRAININGS = (
    Training("timm: transformer", transformer, _TIMM, 0.5, _LOGITS),
    Training("timm: residual network", residual, _TIMM, 0.85, _LOGITS),
    Training("timm: mixup", mixed, _TIMM, 0.8, _LOGITS),
    Training("timm: linear probe", lambda: probe(False), _TIMM, 0.6, _LOGITS),
    Training("smp: Dice", dice, ("segmentation_models_pytorch",), 0.5, _LOGITS),
    Training("kornia: focal loss", focal, ("segmentation_models_pytorch", "kornia"), 0.5, _LOGITS),
    Training("kornia: augmentations", augmented, ("kornia",), 0.85, _LOGITS),
    Training(
        "timm: softmax over the batch",
        softmax_over_the_batch,
        _TIMM,
        0.7,
        _LOGITS,
        mistake="a softmax over the batch, in front of a loss that takes one over the classes",
    ),
    Training(
        "timm: head replaced late",
        lambda: probe(True),
        _TIMM,
        0.6,
        _LOGITS,
        mistake="the head was replaced after the optimizer was made",
    ),
    Training(
        "smp: sigmoid twice",
        sigmoid_twice,
        ("segmentation_models_pytorch",),
        0.5,
        _LOGITS,
        mistake="a sigmoid in the network and one in the loss",
    ),
)
