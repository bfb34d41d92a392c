"""The log keys of all callbacks, for a report that is made from logs alone."""

from __future__ import annotations

from lightning_tricks.accumulation.keys import ACCUMULATION
from lightning_tricks.collapse.keys import DEAD_UNITS, GENERATIONS, MODES, POSTERIOR, PREDICTION, REPRESENTATION, USAGE
from lightning_tricks.diagnosis.keys import FINDINGS, MEMORY_DOCTOR, TRAINING_DOCTOR
from lightning_tricks.gradients.keys import CLIP, MONITOR
from lightning_tricks.lifecycle.keys import RUN
from lightning_tricks.precision.keys import DOCTOR, LOSS_SCALE
from lightning_tricks.publishing.log_keys import LogKeys
from lightning_tricks.schedules.keys import SCHEDULE

_COLLAPSE = REPRESENTATION + PREDICTION + MODES + DEAD_UNITS + USAGE + POSTERIOR + GENERATIONS
ALL_KEYS = LogKeys(
    MONITOR
    + CLIP
    + SCHEDULE
    + RUN
    + ACCUMULATION
    + LOSS_SCALE
    + DOCTOR
    + _COLLAPSE
    + TRAINING_DOCTOR
    + MEMORY_DOCTOR
    + FINDINGS  # (the last one, since a finding may have any name)
)
