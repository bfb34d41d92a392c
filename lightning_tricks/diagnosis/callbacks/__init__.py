"""The callbacks of diagnosis: Lightning's hooks on one side, the pure files of this package on the other."""

from lightning_tricks.diagnosis.callbacks.memory_doctor import MemoryDoctor
from lightning_tricks.diagnosis.callbacks.sanity_check import SanityCheck
from lightning_tricks.diagnosis.callbacks.training_doctor import TrainingDoctor

__all__ = ["MemoryDoctor", "SanityCheck", "TrainingDoctor"]
