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


class RecurrentLanguageModel(nn.Module):
    """Embedding, LSTM layers and a head over the vocabulary; predicts the next token."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.tokens(tokens))[0]).flatten(0, 1)
