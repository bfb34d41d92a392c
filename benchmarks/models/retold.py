"""What the scenarios of ``third_*.py`` share: well-known example trainings told again in small, and scores of them.

The examples are written out in those files, each with the step, the optimizer and the names that people copy. Here is
only what several of them need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scripts import images, script
from benchmarks.models.trainings import Training
from benchmarks.models.wide import Data, Loaded

Detectors = dict[str, dict[str, Any]]
DOCTOR: Detectors = {"TrainingDoctor": {}}
UNITS: Detectors = {"DeadUnits": {}, "TrainingDoctor": {}}
COLLAPSE = ("complete collapse", "dimensional collapse")
STILL = ("weights do not change", "no gradients", "vanishing gradients")


def predicting(output: str, target: str = "target", units: bool = True) -> Detectors:
    """Return the detectors of a training with predictions and targets of these names."""
    return {"PredictionCollapse": {"output": output, "target": target}, **(UNITS if units else DOCTOR)}


def embedding(layer: str, units: bool = True) -> Detectors:
    """Return the detectors of a training of that embedding."""
    return {"RepresentationCollapse": {"layer": layer}, **(UNITS if units else DOCTOR)}


class Example(Loaded):
    """A module that brings its loaders and is trained by Adam of its rate."""

    rate = 1e-3

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=self.rate)


def trained(seed: int, make: Any, score: Any, watched: Detectors, steps: int = 300, **more: Any) -> Training:
    """Train what ``make`` returns; shorter than ``script`` where detectors are always given."""
    return script(seed, make, score, steps, watched, **more)


def pixels(seed: int = 481) -> tuple[Data, Data]:
    """Digits as rows of 64 numbers from 0 to 1, and labels, to train on and to test."""
    (x, y), (a, b) = images(seed)
    return tuple(((d * 0.38 + 0.3).clamp(0, 1).flatten(1), k) for d, k in ((x, y), (a, b)))  # type: ignore[return-value]


def restored(guess: Tensor, x: Tensor) -> Tensor:
    """R squared of rows against the mean row."""
    return 1 - (guess - x).square().mean() / (x - x.mean(0)).square().mean()


def probed(train: Tensor, labels: Tensor, test: Tensor, answers: Tensor) -> Tensor:
    """Accuracy of a linear classifier, by ridge regression, of standardised features."""
    mean, spread = train.mean(0), train.std(0) + 1e-3
    one, two = (torch.cat([(x - mean) / spread, torch.ones(len(x), 1)], 1) for x in (train, test))
    gram = one.T @ one + 1e-2 * len(one) * torch.eye(one.shape[1])
    weights = torch.linalg.solve(gram, one.T @ F.one_hot(labels).float())
    return ((two @ weights).argmax(1) == answers).float().mean()


class Causal(nn.Module):
    """A small GPT: tokens and places, blocks with the norm first, a head without bias; each token may see those after it, or not."""

    def __init__(self, tokens: int, length: int, width: int = 48, layers: int = 2, masked: bool = True) -> None:
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(tokens, width), nn.Parameter(0.02 * torch.randn(length, width))
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.lm_head = nn.Linear(width, tokens, bias=False)
        self.masked = masked

    def forward(self, idx: Tensor) -> Tensor:
        length = idx.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length) if self.masked else None
        h = self.tok_emb(idx) + self.pos_emb[:length]
        return self.lm_head(self.blocks(h, mask=mask, is_causal=self.masked))
