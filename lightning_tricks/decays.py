"""All shapes of a learning-rate schedule, in one namespace: ``LRSchedule(decays.Polynomial(power=0.9))``."""

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

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Decay",
    "Exponential",
    "Function",
    "InverseSqrt",
    "InverseTime",
    "Join",
    "Linear",
    "LinearCosine",
    "MultiStep",
    "NaturalExponential",
    "Noam",
    "OneCycle",
    "OneMinusSqrt",
    "Phase",
    "Piecewise",
    "Plateau",
    "Polynomial",
    "Step",
]
