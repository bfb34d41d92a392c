"""One file for each kind of package; each lists its trainings."""

import importlib

_FILES = (
    "metric_learning",
    "self_supervised",
    "quantizers",
    "densities",
    "language",
    "images",
    "graphs",
    "tables",
    "sequences",
    "relations",
)

TRAININGS = tuple(
    training for name in _FILES for training in importlib.import_module(f"tests.strangers.trainings.{name}").TRAININGS
)
