"""Training tricks for PyTorch Lightning, done right once, measured, and safe to leave switched on."""

from lightning_tricks.accumulation.callbacks import GradientAccumulation
from lightning_tricks.collapse.callbacks import (
    DeadUnits,
    GenerationDrift,
    ModeCollapse,
    PosteriorCollapse,
    PredictionCollapse,
    RepresentationCollapse,
    UsageCollapse,
)
from lightning_tricks.collapse.latent_metrics import (
    ActiveUnits,
    ConditionalEntropy,
    MarginalEntropy,
    PosteriorKL,
    UnusedEntries,
    UsagePerplexity,
)
from lightning_tricks.collapse.metrics import (
    Alignment,
    BalancedSkill,
    ClassShare,
    Coverage,
    DeadDimensions,
    Density,
    EffectiveRank,
    EmbeddingStd,
    InputDependence,
    MacroF1Gain,
    MeanCosine,
    MultilabelSkill,
    NearestDistanceRatio,
    PairwiseDistanceRatio,
    ParticipationRatio,
    Precision,
    PredictionEntropy,
    PredictionSkill,
    Recall,
    RegressionSkill,
    RepetitionRate,
    SphereVariance,
    SpreadRatio,
    Uniformity,
    VendiScore,
)
from lightning_tricks.collapse.recursive import MixedGenerations
from lightning_tricks.detection.action import AlarmError, Rollback
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.diagnosis.callbacks import MemoryDoctor, SanityCheck, TrainingDoctor
from lightning_tricks.errors import ConflictError, NonFiniteError, TrickError, UnsupportedError
from lightning_tricks.gradients.adaptive import AdaGC, AutoClip, ZClip
from lightning_tricks.gradients.callbacks import GradientClip, GradientMonitor
from lightning_tricks.gradients.rules import AGC, ClipNorm, ClipRule, ClipValue
from lightning_tricks.lifecycle.messages import TrickWarning
from lightning_tricks.lr_finder.callbacks import LRFinder
from lightning_tricks.mixin import TricksMixin
from lightning_tricks.precision.advice import PrecisionAdvice, advise_precision
from lightning_tricks.precision.callbacks import FP32Islands, LossScaleGuard, PrecisionDoctor
from lightning_tricks.precision.plugins import CachedMixedPrecision
from lightning_tricks.recipes import recipe
from lightning_tricks.report.callbacks import ProgressMetrics
from lightning_tricks.resume.callbacks import ResumeGuard
from lightning_tricks.resume.exact import ExactResume
from lightning_tricks.resume.plugins import DurableCheckpointIO
from lightning_tricks.schedules.callbacks import LRSchedule
from lightning_tricks.schedules.curves import (
    Constant,
    Cosine,
    Decay,
    Function,
    Linear,
    LinearCosine,
    OneMinusSqrt,
    Polynomial,
)
from lightning_tricks.schedules.cycles import CosineRestarts, Noam, OneCycle
from lightning_tricks.schedules.lengths import (
    Exponential,
    InverseSqrt,
    InverseTime,
    MultiStep,
    NaturalExponential,
    Piecewise,
    Step,
)
from lightning_tricks.schedules.phases import Join, Phase
from lightning_tricks.schedules.plateau import Plateau

__version__ = "0.1.0"

__all__ = [
    "AGC",
    "ActiveUnits",
    "AdaGC",
    "AlarmError",
    "Alignment",
    "AutoClip",
    "BalancedSkill",
    "CachedMixedPrecision",
    "ClassShare",
    "ClipNorm",
    "ClipRule",
    "ClipValue",
    "ConditionalEntropy",
    "ConflictError",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Coverage",
    "DeadDimensions",
    "DeadUnits",
    "Decay",
    "Density",
    "DurableCheckpointIO",
    "EffectiveRank",
    "EmbeddingStd",
    "ExactResume",
    "Exponential",
    "FP32Islands",
    "Function",
    "GenerationDrift",
    "GradientAccumulation",
    "GradientClip",
    "GradientMonitor",
    "InputDependence",
    "InverseSqrt",
    "InverseTime",
    "Join",
    "LRFinder",
    "LRSchedule",
    "Linear",
    "LinearCosine",
    "LossScaleGuard",
    "MacroF1Gain",
    "MarginalEntropy",
    "MeanCosine",
    "MemoryDoctor",
    "MixedGenerations",
    "ModeCollapse",
    "MultiStep",
    "MultilabelSkill",
    "NaturalExponential",
    "NearestDistanceRatio",
    "Noam",
    "NonFiniteError",
    "OneCycle",
    "OneMinusSqrt",
    "PairwiseDistanceRatio",
    "ParticipationRatio",
    "Phase",
    "Piecewise",
    "Plateau",
    "Polynomial",
    "PosteriorCollapse",
    "PosteriorKL",
    "Precision",
    "PrecisionAdvice",
    "PrecisionDoctor",
    "PredictionCollapse",
    "PredictionEntropy",
    "PredictionSkill",
    "ProgressMetrics",
    "Recall",
    "RegressionSkill",
    "RepetitionRate",
    "RepresentationCollapse",
    "ResumeGuard",
    "Rollback",
    "SanityCheck",
    "SphereVariance",
    "SpreadRatio",
    "Step",
    "TrainingDoctor",
    "TrickError",
    "TrickWarning",
    "TricksMixin",
    "Uniformity",
    "UnsupportedError",
    "UnusedEntries",
    "UsageCollapse",
    "UsagePerplexity",
    "VendiScore",
    "Verdict",
    "ZClip",
    "advise_precision",
    "recipe",
]
