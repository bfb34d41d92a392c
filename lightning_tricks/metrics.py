"""All metrics of collapse (torchmetrics), in one namespace: ``lightning_tricks.metrics.Recall(k=5)``."""

from lightning_tricks.collapse.generation_metrics import (
    Coverage,
    Density,
    NearestDistanceRatio,
    PairwiseDistanceRatio,
    Precision,
    Recall,
    RepetitionRate,
)
from lightning_tricks.collapse.latent_metrics import (
    ActiveUnits,
    ConditionalEntropy,
    MarginalEntropy,
    PosteriorKL,
    UnusedEntries,
    UsagePerplexity,
)
from lightning_tricks.collapse.prediction_metrics import (
    BalancedSkill,
    ClassShare,
    InputDependence,
    MacroF1Gain,
    PredictionEntropy,
    PredictionSkill,
)
from lightning_tricks.collapse.representation_metrics import (
    DeadDimensions,
    EffectiveRank,
    EmbeddingStd,
    MeanCosine,
    ParticipationRatio,
    SphereVariance,
)
from lightning_tricks.collapse.similarity_metrics import Alignment, Uniformity, VendiScore
from lightning_tricks.collapse.value_metrics import MultilabelSkill, RegressionSkill, SpreadRatio

__all__ = [
    "ActiveUnits",
    "Alignment",
    "BalancedSkill",
    "ClassShare",
    "ConditionalEntropy",
    "Coverage",
    "DeadDimensions",
    "Density",
    "EffectiveRank",
    "EmbeddingStd",
    "InputDependence",
    "MacroF1Gain",
    "MarginalEntropy",
    "MeanCosine",
    "MultilabelSkill",
    "NearestDistanceRatio",
    "PairwiseDistanceRatio",
    "ParticipationRatio",
    "PosteriorKL",
    "Precision",
    "PredictionEntropy",
    "PredictionSkill",
    "Recall",
    "RegressionSkill",
    "RepetitionRate",
    "SphereVariance",
    "SpreadRatio",
    "Uniformity",
    "UnusedEntries",
    "UsagePerplexity",
    "VendiScore",
]
