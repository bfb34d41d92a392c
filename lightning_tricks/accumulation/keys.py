"""The log keys of accumulation."""

from __future__ import annotations

from lightning_tricks.publishing.log_keys import LogKey

_CHART = ("schedule", "accumulation")
ACCUMULATION = (
    LogKey("accumulation/window", "micro-batches in this update", _CHART),
    LogKey("accumulation/batch_size", "samples in this update over all processes", _CHART),
    LogKey("accumulation/lr_factor", "factor on the learning rate", _CHART),
)
