"""Training tricks for PyTorch Lightning, done right once, measured, and safe to leave switched on."""

import warnings as _warnings

from lightning_tricks import decays, functional, metrics  # noqa: F401
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
from lightning_tricks.collapse.recursive import MixedGenerations
from lightning_tricks.detection.action import AlarmError, Rollback
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.diagnosis.callbacks import MemoryDoctor, SanityCheck, TrainingDoctor
from lightning_tricks.errors import ConflictError, NonFiniteError, TrickError, UnsupportedError
from lightning_tricks.errors import nearest as _nearest
from lightning_tricks.gradients.adaptive import AdaGC, AutoClip, ZClip
from lightning_tricks.gradients.callbacks import GradientClip, GradientMonitor
from lightning_tricks.gradients.rules import ClipNorm, ClipRule, ClipValue
from lightning_tricks.gradients.units import AGC
from lightning_tricks.lifecycle.messages import TrickWarning
from lightning_tricks.lr_finder.callbacks import LRFinder
from lightning_tricks.metrics import (
    ActiveUnits,
    BalancedSkill,
    ClassShare,
    ConditionalEntropy,
    DeadDimensions,
    EffectiveRank,
    EmbeddingStd,
    InputDependence,
    MacroF1Gain,
    MarginalEntropy,
    MeanCosine,
    MultilabelSkill,
    NearestDistanceRatio,
    PairwiseDistanceRatio,
    ParticipationRatio,
    PosteriorKL,
    PredictionEntropy,
    PredictionSkill,
    RegressionSkill,
    RepetitionRate,
    SphereVariance,
    SpreadRatio,
    UnusedEntries,
    UsagePerplexity,
    VendiScore,
)
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
    Decay,
    LinearCosine,
    OneMinusSqrt,
)
from lightning_tricks.schedules.cycles import CosineRestarts, Noam, OneCycle
from lightning_tricks.schedules.lengths import (
    InverseSqrt,
    InverseTime,
    MultiStep,
    NaturalExponential,
)
from lightning_tricks.schedules.plateau import Plateau
from lightning_tricks.without_trainer import lr_find, sanity_check

__version__ = "0.1.0"

__all__ = [
    "AGC",
    "ActiveUnits",
    "AdaGC",
    "AlarmError",
    "AutoClip",
    "BalancedSkill",
    "CachedMixedPrecision",
    "ClassShare",
    "ClipNorm",
    "ClipRule",
    "ClipValue",
    "ConditionalEntropy",
    "ConflictError",
    "CosineRestarts",
    "DeadDimensions",
    "DeadUnits",
    "Decay",
    "DurableCheckpointIO",
    "EffectiveRank",
    "EmbeddingStd",
    "ExactResume",
    "FP32Islands",
    "GenerationDrift",
    "GradientAccumulation",
    "GradientClip",
    "GradientMonitor",
    "InputDependence",
    "InverseSqrt",
    "InverseTime",
    "LRFinder",
    "LRSchedule",
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
    "Plateau",
    "PosteriorCollapse",
    "PosteriorKL",
    "PrecisionAdvice",
    "PrecisionDoctor",
    "PredictionCollapse",
    "PredictionEntropy",
    "PredictionSkill",
    "ProgressMetrics",
    "RegressionSkill",
    "RepetitionRate",
    "RepresentationCollapse",
    "ResumeGuard",
    "Rollback",
    "SanityCheck",
    "SphereVariance",
    "SpreadRatio",
    "TrainingDoctor",
    "TrickError",
    "TrickWarning",
    "TricksMixin",
    "UnsupportedError",
    "UnusedEntries",
    "UsageCollapse",
    "UsagePerplexity",
    "VendiScore",
    "Verdict",
    "ZClip",
    "advise_precision",
    "lr_find",
    "recipe",
    "sanity_check",
]

# Names that say too little without their module. They still work here, for now, with a DeprecationWarning.
_MOVED = {
    **dict.fromkeys(("Alignment", "Coverage", "Density", "Precision", "Recall", "Uniformity"), metrics),
    **dict.fromkeys(("Constant", "Cosine", "Exponential", "Function", "Join", "Linear"), decays),
    **dict.fromkeys(("Phase", "Piecewise", "Polynomial", "Step"), decays),
}


def __getattr__(name: str) -> object:
    """Return a name that has moved, with a DeprecationWarning that has the new place."""
    if name not in _MOVED:
        near = _nearest(name, (*__all__, "decays", "functional", "metrics"), 0.7)
        hint = f". Did you mean {near!r}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    place = _MOVED[name]
    text = f"lightning_tricks.{name} is {place.__name__}.{name} now; the old name will be removed in 0.3."
    _warnings.warn(text, DeprecationWarning, stacklevel=2)
    return getattr(place, name)


def __dir__() -> list[str]:
    """Return what completion shows: the public names, and the modules that hold more of them."""
    return sorted([*__all__, "__version__", "decays", "functional", "metrics"])
