"""Autoencoders and a classifier of digits with quantizers of vector-quantize-pytorch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import accuracy, digits, explained
from tests.strangers.trainings.training import Ready, Training


class _Autoencoder(L.LightningModule):
    """An encoder to 16 tokens of an image, a quantizer, and a decoder."""

    def __init__(self, quantizer: nn.Module, width: int, lr: float = 2e-3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.GELU(), nn.Conv2d(32, 32, 3, padding=1), nn.GELU(),
            nn.Conv2d(32, width, 1),
        )  # fmt: skip
        self.quantizer = quantizer
        self.decoder = nn.Sequential(
            nn.Conv2d(width, 32, 3, padding=1), nn.GELU(), nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1)
        )
        self.lr = lr

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(images)
        tokens = code.flatten(2).transpose(1, 2)
        quantized, _, *commitment = self.quantizer(tokens)
        extra = commitment[0].sum() if commitment else tokens.new_zeros(())
        return self.decoder(quantized.transpose(1, 2).reshape(code.shape)), extra

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, _ = batch
        decoded, commitment = self(images)
        reconstruction = F.l1_loss(decoded, images)
        self.log("rec_loss", reconstruction)
        return reconstruction + commitment

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, _ = batch
        self.log("val_loss", F.l1_loss(self(images)[0], images))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def _ready(module: _Autoencoder, epochs: int = 8) -> Ready:
    x, y, new, labels = digits()

    @torch.no_grad()
    def score() -> float:
        module.eval()
        return explained(module(new)[0].flatten(1), new.flatten(1))

    loaders = DataLoader(TensorDataset(x, y), 32, shuffle=True), DataLoader(TensorDataset(new, labels), 100)
    return Ready(module, loaders[0], score, loaders[1], {"max_epochs": epochs})


def codebook() -> Ready:
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=16, codebook_size=128, decay=0.8, commitment_weight=1.0, threshold_ema_dead_code=2)
    return _ready(_Autoencoder(quantizer, 16))


def residual() -> Ready:
    from vector_quantize_pytorch import ResidualVQ

    return _ready(_Autoencoder(ResidualVQ(dim=16, num_quantizers=3, codebook_size=64, kmeans_init=True), 16))


def scalars() -> Ready:
    """Finite scalar quantization: nothing is learned in the quantizer, and there is no third result."""
    from vector_quantize_pytorch import FSQ

    return _ready(_Autoencoder(FSQ(levels=[8, 5, 5]), 3))


class _Classifier(L.LightningModule):
    """Classes from one code of an image; k-means makes the codebook of the first batch that is seen."""

    def __init__(self) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.quantizer = VectorQuantize(dim=16, codebook_size=64, kmeans_init=True)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quantized, _, commitment = self.quantizer(self.encoder(images)[:, None])
        return self.head(quantized[:, 0]), commitment.sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        logits, commitment = self(images)
        return F.cross_entropy(logits, labels) + commitment

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def classifier() -> Ready:
    module = _Classifier()
    x, y, new, labels = digits()
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    score = lambda: accuracy(module, lambda images: module(images)[0], new, labels)  # noqa: E731
    return Ready(module, loader, score, trainer={"max_epochs": 8})


_PACKAGE = ("vector_quantize_pytorch",)
_CODES = {"UsageCollapse": {"assignments": "quantizer"}}

TRAININGS = (
    Training("vector-quantize: codebook", codebook, _PACKAGE, 0.6, _CODES),
    Training("vector-quantize: residual", residual, _PACKAGE, 0.6, _CODES),
    Training("vector-quantize: scalars", scalars, _PACKAGE, 0.6, _CODES),
    Training("vector-quantize: classes from a code", classifier, _PACKAGE, 0.7, _CODES),
)
