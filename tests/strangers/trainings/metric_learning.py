"""Embeddings of digits with losses, miners and samplers of pytorch-metric-learning."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import digits, neighbours
from tests.strangers.trainings.training import Ready, Training


def _trunk(dimensions: int = 32) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, dimensions)
    )


class _Metric(L.LightningModule):
    """Embeds a batch, asks a miner for pairs where there is one, and takes the loss of the package."""

    def __init__(self, loss: Any, miner: Any = None, lr: float = 1e-3) -> None:
        super().__init__()
        self.model, self.criterion, self.miner, self.lr = _trunk(), loss, miner, lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        embeddings = self.model(images)
        pairs = self.miner(embeddings, labels) if self.miner is not None else None
        loss = self.criterion(embeddings, labels, pairs)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def _ready(module: L.LightningModule, *, epochs: int = 8, balanced: bool = True, labels: Tensor | None = None) -> Ready:
    from pytorch_metric_learning.samplers import MPerClassSampler

    x, y, *_ = digits()
    y = y if labels is None else labels
    sampler = MPerClassSampler(y, m=4, batch_size=40, length_before_new_iter=1280) if balanced else None
    loader = DataLoader(TensorDataset(x, y), 40, sampler=sampler, shuffle=sampler is None, drop_last=True)
    return Ready(module, loader, lambda: neighbours(module, module.model, digits()), trainer={"max_epochs": epochs})


def triplets() -> Ready:
    from pytorch_metric_learning import losses, miners

    miner = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    return _ready(_Metric(losses.TripletMarginLoss(margin=0.2), miner))


def multi_similarity() -> Ready:
    from pytorch_metric_learning import losses, miners

    return _ready(_Metric(losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5), miners.MultiSimilarityMiner(0.1)))


def arcface() -> Ready:
    """The loss has weights of its own, one row per class."""
    from pytorch_metric_learning import losses

    return _ready(_Metric(losses.ArcFaceLoss(10, 32, margin=28.6, scale=64)), balanced=False)


def memory() -> Ready:
    """Pairs with the embeddings of earlier batches, which the loss keeps in a queue."""
    from pytorch_metric_learning import losses

    loss = losses.CrossBatchMemory(losses.ContrastiveLoss(pos_margin=0, neg_margin=1), 32, memory_size=256)
    return _ready(_Metric(loss))


class _TwoViews(_Metric):
    """SimCLR on noisy copies: the label of a pair is its number."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, _ = batch
        first, second = (images * (torch.rand_like(images) > 0.3) + 0.1 * torch.randn_like(images) for _ in range(2))
        return self.criterion(self.model(first), self.model(second))


def two_views() -> Ready:
    from pytorch_metric_learning import losses

    return _ready(_TwoViews(losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.2))), balanced=False, epochs=4)


def margins_of_a_distance() -> Ready:
    """A similarity wants a large value for pairs of one class; the default margins are those of a distance."""
    from pytorch_metric_learning import distances, losses

    return _ready(_Metric(losses.ContrastiveLoss(distance=distances.CosineSimilarity())))


def labels_of_other_images() -> Ready:
    from pytorch_metric_learning import losses

    _, y, *_ = digits()
    labels = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    return _ready(_Metric(losses.NormalizedSoftmaxLoss(10, 32)), labels=labels, balanced=False)


_PACKAGE = ("pytorch_metric_learning",)
_LAYER = {"RepresentationCollapse": {"layer": "model"}}

TRAININGS = (
    Training("metric learning: triplets of a semihard miner", triplets, _PACKAGE, 0.9, _LAYER),
    Training("metric learning: multi-similarity", multi_similarity, _PACKAGE, 0.9, _LAYER),
    Training("metric learning: ArcFace", arcface, _PACKAGE, 0.9, _LAYER),
    Training("metric learning: cross-batch memory", memory, _PACKAGE, 0.9, _LAYER),
    Training("metric learning: two views", two_views, _PACKAGE, 0.65, _LAYER),
    Training(
        "metric learning: margins of a distance",
        margins_of_a_distance,
        _PACKAGE,
        0.8,
        _LAYER,
        mistake="the default margins with a similarity: pairs of one class are pushed apart, others are pulled together",
    ),
    Training(
        "metric learning: labels of other images",
        labels_of_other_images,
        _PACKAGE,
        0.8,
        _LAYER,
        mistake="labels were shuffled without their images",
    ),
)
