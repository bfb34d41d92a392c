"""The experiment of SanityCheck on schedules: nothing is run, their arguments are read."""

from __future__ import annotations

import math

from lightning_tricks.diagnosis.examination import Examination
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.schedule_arguments import NAME, Schedule, misplanned
from lightning_tricks.lifecycle.horizon import UnknownHorizonError, forecast_updates, updates_per_epoch


def schedules(exam: Examination) -> list[Check]:
    """Look at the arguments of the schedulers that ``configure_optimizers`` returned; nothing where there are none."""
    trainer = exam.dry_run.steps.trainer
    configs = trainer.lr_scheduler_configs
    if not configs:
        return []
    try:
        updates: float = forecast_updates(trainer)
    except UnknownHorizonError:
        updates = math.inf
    in_epoch = updates_per_epoch(trainer) or math.inf
    epochs = updates / in_epoch if math.isfinite(updates) and math.isfinite(in_epoch) else math.inf
    found = [
        Schedule(
            config.scheduler,
            config.interval,
            config.monitor,
            (updates if config.interval == "step" else epochs) / max(1, config.frequency),
            updates,
        )
        for config in configs
    ]
    wrong = misplanned(found, exam.optimizers)
    if wrong is not None:
        return [wrong]
    kinds = ", ".join(dict.fromkeys(type(schedule.scheduler).__name__ for schedule in found))
    return [Check(NAME, True, f"nothing in the arguments of {kinds} contradicts the run")]
