"""TrainingDoctor: follows a training, and reports what is wrong with it."""

from __future__ import annotations

from typing import Any, cast, final

from lightning_tricks.detection.action import Action, Rollback
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.diagnosis.course import FORMS, OPTIONAL_FORMS
from lightning_tricks.diagnosis.course_probe import CourseParts, CourseProbe
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.diagnosis.health_report import HealthReport
from lightning_tricks.diagnosis.keys import FINDINGS, TRAINING_DOCTOR
from lightning_tricks.diagnosis.no_updates import NoUpdates
from lightning_tricks.diagnosis.replaced_parameters import ReplacedParameters
from lightning_tricks.diagnosis.still_copies import StillCopies
from lightning_tricks.diagnosis.summary import Summary
from lightning_tricks.diagnosis.validation_gap import ValidationGap
from lightning_tricks.errors import TrickError, require_flag
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form
from lightning_tricks.numerics.error_parts import ErrorParts

_PATIENCE = 3
_GRACE = "10%"  # of the run


@final
class TrainingDoctor(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Follow a training and say what is wrong with it, with evidence, how sure that is, and the next step.

    Alarms, which the action is for: the loss is NaN or inf for good; it has diverged (20 % above the largest early one,
    and not by harder data or by the schedule), has jumped and stays there, or blew up and has learned nothing since;
    gradients vanish on the way to the first layer, or there are none, while nothing is learned; weights shrink to
    nothing, or no longer change, since the learning rate is gone or no step is made; a copy of an untrained network (a
    teacher, a target, an average of weights) still holds what it began with at three fifths of the run; layers were
    replaced after the optimizer was made; the loss, which is above 0, has not fallen by a thousandth in three fifths of
    the run, nor that on the first batch; validation gets worse than its noise explains while training gets better.
    Advice, which is only logged: a spike that passed, an outlying row, forgetting, overconfidence, plateau,
    oscillation, learning rate too low, waiting for data. It is told when it has held at three checks, taken back when
    it has not at three, and left out of ``findings`` below a confidence of 60 %, when the schedule explains it, when
    the task is solved, and when it contradicts a stronger one; ``hints`` has all of it. At the end one line when
    nothing is wrong, and ``error_parts``: how much of the error is training error, gap to validation and, at most,
    label noise. When training fails by an exception, or an alarm stops it or rolls it back, ``health.json`` and
    ``health.txt`` in the run's folder say why, also when the logger is broken.

    With manual optimization the losses of several optimizers mix: then only NaN and vanishing gradients are judged.
    In a module that is compiled as a whole, no module inside it is named, and the first batch is not followed.

    At each of the first 8 checks, ever more seldom later, and where an alarm is about to begin, the first batch is run
    again, in eval mode and in a snapshot that puts everything back, to follow the loss and the predictions on it. This
    is done only where it is proven to leave no trace: everything that the module holds can be put back, and such a run
    before the first step gave the loss that the step itself then had.

    Args:
        every_n_steps: updates between two checks; None for the Trainer's ``log_every_n_steps``.
        action: ``"log"``, ``"warn"``, ``"stop"``, ``"raise"``, ``"rollback"``, a ``Rollback``, or a function that takes
            the verdict.
        reference_batch: follow the first batch also where the loss of the first step was not reproduced, as with
            operations that are not deterministic.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``diagnosis/training_doctor/`` with ``loss``, ``loss_std``, ``first_gradient``,
        ``last_gradient`` (norms), ``update_ratio`` (median over matrices), ``waiting`` (share of the time), ``alarm``;
        ``fixed_batch_loss``, of the first batch, in eval mode, where it can be followed. ``diagnosis/<finding>`` is 1
        at the step of a finding, with its text, and 0 where it is taken back. At the end ``error/initial``,
        ``error/training``, ``error/validation``, ``error/validation_best``, the text ``diagnosis/summary``, and a
        figure: loss with clips, skips, alarms and rollbacks; predictions on the first batch over time; gradients and
        updates.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        Findings, curves and baselines; not the batch of ``fixed_batch_loss``, which is the first one after a resume.

    Cost:
        Once a forward pass before the first step; at a check the norms of the gradients (shared with the other tricks)
        and one copy of some hundred numbers. Where the first batch is run again (the first 8 checks, then 4 in each
        doubling of the run), a snapshot and a forward pass: some 50 ms on a CPU for 200 tensors. At other steps two
        readings of the clock; on a CPU it looks at the loss. Once, where there are copies of the network, a host read.

    Example:
        >>> from lightning_tricks import TrainingDoctor
        >>> TrainingDoctor(action="stop").findings
        []

    Reference: Zhang et al., "AUTOTRAINER", ICSE 2021 (vanishing gradients); Karpathy, "A Recipe for Training Neural
    Networks", 2019 (updates, predictions on one batch); Guo et al., arXiv:1706.04599 (overconfidence).
    """

    log_keys = TRAINING_DOCTOR + FINDINGS
    state_form = watch_form(**FORMS, losses=form.list_of(form.measured), culprit=form.text, optional=OPTIONAL_FORMS)

    def __init__(
        self, every_n_steps: int | None = None, action: Action = "warn", reference_batch: bool = False
    ) -> None:
        self.reference_batch = require_flag("TrainingDoctor", "reference_batch", reference_batch)
        self.take(WatchSettings.checked("TrainingDoctor", every_n_steps, action, _PATIENCE, _GRACE))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        """A watch over the course of the training, what measures that, and what is written of it."""
        measures = CourseParts.made(reference_asked_for=self.reference_batch)
        probe = CourseProbe(measures, self.patience)
        watch = Watch(self, probe, self.settings, topic="diagnosis")
        report = HealthReport(watch.judge, probe, at_alarms=self.action == "stop" or isinstance(self.action, Rollback))
        watch.announcer.listener = report.alarmed
        # the clock is looked at before a check, and what else is measured follows the update that the watch notes
        after = [part for part in measures if part is not measures.wait]
        return (
            measures.wait,
            watch,
            *after,
            NoUpdates(watch),
            StillCopies(watch, probe),
            ReplacedParameters(watch, probe),
            ValidationGap(watch, probe),
            report,
            Summary(watch, probe),
        )

    @property
    def probe(self) -> CourseProbe:
        """What it measures, and the course of the training."""
        return cast(CourseProbe, self.watch.probe)

    @property
    def findings(self) -> list[Finding]:
        """What was noticed and still holds: alarms first, the surest advice next.

        Left out are hints below 60 %, those that the schedule of the rate explains, all on the loss once the task is
        solved, and those that contradict a stronger one.
        """
        return self.probe.course.findings()

    @property
    def hints(self) -> list[Finding]:
        """All advice that holds at the last check, also what is too weak to be among the findings."""
        return [finding for finding, _ in self.probe.course.hints.values()]

    @property
    def error_parts(self) -> ErrorParts | None:
        """Training error, gap to validation, and a bound on label noise; None where losses do not tell."""
        return self.probe.error_parts

    def plot(self) -> Any:
        """Return the figure: loss, predictions on the first batch over time, gradients and updates.

        Raises:
            TrickError: nothing was measured yet.
        """
        if self.run_or_none is None or not self.watch.judge.history:
            raise TrickError("TrainingDoctor.plot(): nothing was measured yet. Call it after Trainer.fit.")
        return self.probe.draw(self.watch.judge.history)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Compare the loss of validation with that of training; its time was not spent waiting for data."""
        self.probe.parts.wait.go_on()
        run = self.live_run
        if run is not None and not trainer.sanity_checking:
            self.part(ValidationGap).validated(run)
        super().on_validation_end(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write the report, before everything is cleaned up."""
        run = self.live_run
        if run is not None:
            self.part(HealthReport).failed(run, exception)
        super().on_exception(trainer, pl_module, exception)
