"""The detectors of collapse: what each watches, measures and reports. How one runs is in ``detection/detector.py``."""

from lightning_tricks.collapse.callbacks.dead_units import DeadUnits
from lightning_tricks.collapse.callbacks.generation_drift import GenerationDrift
from lightning_tricks.collapse.callbacks.mode_collapse import ModeCollapse
from lightning_tricks.collapse.callbacks.posterior_collapse import PosteriorCollapse
from lightning_tricks.collapse.callbacks.prediction_collapse import PredictionCollapse
from lightning_tricks.collapse.callbacks.representation_collapse import RepresentationCollapse
from lightning_tricks.collapse.callbacks.usage_collapse import UsageCollapse

__all__ = [
    "DeadUnits",
    "GenerationDrift",
    "ModeCollapse",
    "PosteriorCollapse",
    "PredictionCollapse",
    "RepresentationCollapse",
    "UsageCollapse",
]
