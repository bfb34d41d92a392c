"""What is left to say at the end of a training: the findings that hold, and where the error comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_tricks.detection.watch import Watch
from lightning_tricks.diagnosis.course_probe import CourseProbe
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.lifecycle.messages import inform
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.error_parts import ErrorParts


class Summary(Stages):
    """Writes the summary when training has reached its end.

    Args:
        watch: of the callback; its keys are used.
        probe: keeps the course of the training.
    """

    def __init__(self, watch: Watch, probe: CourseProbe) -> None:
        self._watch, self._probe = watch, probe

    def _finished(self, run: TrainingRun) -> None:
        """Tell the loggers; where nothing is wrong, the user as well."""
        updates, course = run.clock.attempted(0) if run.views else 0, self._probe.course
        if not updates or not course.checks:
            return
        found, parts = course.findings(), self._probe.error_parts
        told = told_of(found, updates)
        if not found:
            # (findings were reported when they were noticed)
            inform(told[0])
        if parts is not None:
            prefix = self._watch.announcer.prefix(run)
            run.publisher.put(run.step, {f"{prefix}/error/{n}": value for n, value in numbers_of(parts).items()})
            told += parts.sentences(advise=not found)
        run.publisher.log_text(run.step, "diagnosis/summary", "\n\n".join(told))
        run.publisher.flush()


def told_of(found: Sequence[Finding], updates: int) -> list[str]:
    """Return the sentences about findings, or the one that there is none.

    >>> told_of([], 100)
    ['TrainingDoctor: nothing wrong was found in 100 updates']
    """
    told = [f"TrainingDoctor: {finding}" for finding in found]
    return told or [f"TrainingDoctor: nothing wrong was found in {updates} updates"]


def numbers_of(parts: ErrorParts) -> dict[str, float]:
    """Return what is logged of the parts of the error; those of validation where there was one."""
    numbers = {"initial": parts.start, "training": parts.train}
    if math.isfinite(parts.last):
        numbers |= {"validation_best": parts.best, "validation": parts.last}
    return numbers
