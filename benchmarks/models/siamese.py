"""SimSiam: one encoder called on two views. Reference: Chen and He, 2020, arXiv:2011.10566."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity


class SimSiam(nn.Module):
    """Encoder, projector and predictor; returns the loss.

    Args:
        encoder: images -> features.
        features: their number.
        width: of projection and prediction.
    """

    def __init__(self, encoder: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(
            *(nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)),
            *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False)),
        )
        self.predictor = nn.Sequential(
            *(nn.Linear(width, width // 4, bias=False), nn.BatchNorm1d(width // 4), nn.ReLU(inplace=True)),
            nn.Linear(width // 4, width),
        )

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        first, second = (self.projector(self.encoder(view)) for view in (one, two))
        across = cosine_similarity(self.predictor(first), second.detach()) + cosine_similarity(
            self.predictor(second), first.detach()
        )
        return -across.mean() / 2
