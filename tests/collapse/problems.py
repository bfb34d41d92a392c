"""What several tests of collapse train or compare: modules, data and functions."""

from __future__ import annotations

import torch
from torchmetrics import Metric

import lightning_tricks

FEATURES = ("SphereVariance", "EmbeddingStd", "MeanCosine", "DeadDimensions", "EffectiveRank", "ParticipationRatio")


PREDICTIONS = (
    "PredictionSkill",
    "PredictionEntropy",
    "ClassShare",
    "InputDependence",
    "MacroF1Gain",
    "BalancedSkill",
)


NUMBERS = ("MultilabelSkill", "RegressionSkill", "SpreadRatio")


PAIRS = ("Coverage", "Density", "Recall", "Precision", "PairwiseDistanceRatio", "NearestDistanceRatio")


OTHERS = ("Uniformity", "VendiScore", "Alignment", "RepetitionRate")


ALL = (*FEATURES, *PREDICTIONS, *NUMBERS, *PAIRS, *OTHERS)


LATENT = ("UsagePerplexity", "UnusedEntries", "MarginalEntropy", "ConditionalEntropy", "ActiveUnits", "PosteriorKL")


def make(name: str) -> Metric:
    cls = getattr(lightning_tricks.metrics, name)
    if name in (*FEATURES, *LATENT):
        return cls(6)
    return cls(4) if name in (*PREDICTIONS, *NUMBERS) else cls()


def data(name: str, n: int = 60, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Arguments of one update."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + 1
    if name in PREDICTIONS:
        logits = 2 * torch.randn(n, 4, generator=draw)
        return logits, torch.where(torch.rand(n, generator=draw) < 0.5, logits.argmax(1), 0)
    if name in NUMBERS:
        output = 2 * torch.randn(n, 4, generator=draw)
        noisy = output + 3 * torch.randn(n, 4, generator=draw)
        return output, (noisy > 0).float() if name == "MultilabelSkill" else 1e4 + noisy
    if name == "RepetitionRate":
        return (torch.randint(0, 3, (n, 12), generator=draw),)
    if name in ("UsagePerplexity", "UnusedEntries"):
        return (torch.randint(0, 4, (n,), generator=draw),)
    if name in (*PAIRS, "Alignment", "PosteriorKL"):
        return features, torch.randn(n, 6, generator=draw)
    return (features,)


def parts(arguments: tuple[torch.Tensor, ...], bounds: list[int]) -> list[tuple[torch.Tensor, ...]]:
    return [
        tuple(a[i:j] for a in arguments)
        for i, j in zip([0, *bounds], [*bounds, len(arguments[0])], strict=True)
    ]  # fmt: skip
