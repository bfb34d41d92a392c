"""The measures of collapse as ``torchmetrics.Metric``: streaming, and on several processes that of all data together.

Representation and prediction keep sums in float64, never samples. Generation compares every sample with every other one
and keeps them: update it with a few thousand at most. A process without data needs no special treatment.
"""

from __future__ import annotations

from lightning_tricks.collapse.generation_metrics import (
    Coverage,
    Density,
    NearestDistanceRatio,
    PairwiseDistanceRatio,
    Precision,
    Recall,
    RepetitionRate,
)
from lightning_tricks.collapse.prediction_metrics import (
    BalancedSkill,
    ClassShare,
    InputDependence,
    MacroF1Gain,
    MultilabelSkill,
    PredictionEntropy,
    PredictionSkill,
    RegressionSkill,
    SpreadRatio,
)
from lightning_tricks.collapse.representation_metrics import (
    Alignment,
    DeadDimensions,
    EffectiveRank,
    EmbeddingStd,
    MeanCosine,
    ParticipationRatio,
    SphereVariance,
    Uniformity,
    VendiScore,
)

__all__ = [
    "Alignment",
    "BalancedSkill",
    "ClassShare",
    "Coverage",
    "DeadDimensions",
    "Density",
    "EffectiveRank",
    "EmbeddingStd",
    "InputDependence",
    "MacroF1Gain",
    "MeanCosine",
    "MultilabelSkill",
    "NearestDistanceRatio",
    "PairwiseDistanceRatio",
    "ParticipationRatio",
    "Precision",
    "PredictionEntropy",
    "PredictionSkill",
    "Recall",
    "RegressionSkill",
    "RepetitionRate",
    "SphereVariance",
    "SpreadRatio",
    "Uniformity",
    "VendiScore",
]
