"""A stack of LSTM layers that classifies a sequence by its last state."""

from __future__ import annotations

from torch import Tensor, nn


class SequenceClassifier(nn.Module):
    """LSTM layers and a linear head."""

    def __init__(self, features: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.LSTM(features, width, layers, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])
