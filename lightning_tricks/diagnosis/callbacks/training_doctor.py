"""TrainingDoctor: follows a training, and reports what is wrong with it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_tricks.detection.action import Action, Rollback
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.causes import Cause, Explained, Hint
from lightning_tricks.detection.detector import Detector, detector_form, keep_bounded
from lightning_tricks.diagnosis import autopsy, figures, findings, loss_curve
from lightning_tricks.diagnosis.course import FORMS, OPTIONAL_FORMS, Course
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.diagnosis.loss_curve import Check
from lightning_tricks.dry_run.isolated import step_again
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import (
    NotRestorableError,
    in_one_line,
    require_flag,
)
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.names import compiled_as_a_whole, in_compiled_graphs, plain_modules
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.trace import Trace, floating
from lightning_tricks.numerics import form, host
from lightning_tricks.numerics.error_parts import ErrorParts
from lightning_tricks.numerics.norms import bounded_sample, tensor_norms
from lightning_tricks.numerics.shards import local, on_any_rank, reduced
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page

_MOST_LOSSES = 256
_SERIOUS = (
    "finite",
    "divergence",
    "blow-up",
    "silence",
    "updates",
    "shrinkage",
    "flow",
    "spike",
    "idle",
    "generalisation",
)
_IDLE_BATCHES = 100  # of manual optimization without any step
_GIANT = 100.0  # times the largest of the usual losses
_MATRICES = 16
_ELEMENTS = 4096
_SHOWN_SAMPLES = 16
_MOST_TRIES = 3  # batches without a loss before the reference batch is given up
_SAME_LOSS = {False: 1e-4, True: 1e-2}  # relative; the larger one where the step computes in 16 bit


class _Layout(NamedTuple):
    """What the vector of a check holds, and what needs no vector."""

    counts: tuple[int, ...]  # losses, norms, ratios, weights, giant rows, rate, loss on the first batch, predictions
    waited: float
    seconds: float
    rate: float  # NaN where it is a tensor, which is in the vector


@final
class TrainingDoctor(Detector):
    """Follow a training and say what is wrong with it, with evidence, how sure that is, and the next step.

    Alarms, which the action is for: the loss is NaN or inf for good; it has diverged (20 % above the largest early one,
    and not by harder data or by the schedule), has jumped and stays there, or blew up and has learned nothing since;
    gradients vanish on the way to the first layer, or there are none, while nothing is learned; weights shrink to
    nothing, or no longer change, since the learning rate is gone or no step is made;
    validation gets worse than its noise explains while training gets better. Advice, which is only logged:
    a spike that passed, an outlying row, forgetting, overconfidence, plateau, oscillation, learning rate too low,
    waiting for data. It is told when it has held at three checks, taken back when it has not at three, and left out of
    ``findings`` below a confidence of 60 %, when the schedule explains it, when the task is solved, and when it
    contradicts a stronger one; ``hints`` has all of it. At the end one line when nothing is wrong, and ``error_parts``:
    how much of the error is training error, gap to validation and, at most, label noise. When training fails by an
    exception, or an alarm stops it or rolls it back, ``health.json`` and ``health.txt`` in the run's folder say why,
    also when the logger is broken.

    With manual optimization the losses of several optimizers mix: then only NaN and vanishing gradients are judged.
    In a module that is compiled as a whole, no module inside it is named, and the first batch is not followed.

    At each check the first batch is run again, in eval mode and in a snapshot that puts everything back, to follow the
    loss and the predictions on it. This is done only where it is proven to leave no trace: everything that the module
    holds can be put back, and such a run before the first step gave the loss that the step itself then had.

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
        Once a forward pass before the first step; at a check one forward pass of the first batch in a snapshot, the
        norms of the gradients (shared with the other tricks), and one copy of some hundred numbers. At other steps two
        readings of the clock; on a CPU it looks at the loss.

    Example:
        >>> from lightning_tricks import TrainingDoctor
        >>> TrainingDoctor(action="stop").findings
        []

    Reference: Zhang et al., "AUTOTRAINER", ICSE 2021 (vanishing gradients); Karpathy, "A Recipe for Training Neural
    Networks", 2019 (updates, predictions on one batch); Guo et al., arXiv:1706.04599 (overconfidence).
    """

    topic = "diagnosis"
    hooks_modules = False

    state_form = detector_form(**FORMS, losses=form.many(form.measured), culprit=form.text, optional=OPTIONAL_FORMS)

    def __init__(
        self, every_n_steps: int | None = None, action: Action = "warn", reference_batch: bool = False
    ) -> None:
        self.reference_batch = require_flag("TrainingDoctor", "reference_batch", reference_batch)
        super().__init__(every_n_steps, action, 3, "10%")

    def configuration(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().configuration(), "reference_batch": self.reference_batch}

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._course = Course(self.patience)
        self._losses: list[Tensor] = []
        self._giant = math.inf  # from which on a loss is looked into
        self._row = ""  # of the batch that made the first giant loss, where one row did
        self._previous: Any = None  # the batch before the last one
        self._predictions: list[tuple[int, list[float]]] = []
        self._layouts: list[_Layout] = []
        self._norms: Tensor | None = None
        self._before: list[Tensor] = []
        self._matrices: list[Tensor] = []
        self._ratios: Tensor | None = None
        self._sizes: Tensor | None = None
        self._batch: Any = None
        self._tries = 0
        self._reproduction: tuple[Tensor, Tensor | None] | None = None
        self._last_batch: Any = None
        self._last_index = 0
        self._culprit = ""
        self._names: list[str] = []
        self._kept = 0
        self._ended = self._begun = 0.0
        self._waiting = self._seconds = 0.0
        self._waited_in_all = self._seconds_in_all = 0.0
        self._folder: Path | None = None
        self._manual = self._closed = False
        self._checks = self._idle = 0

    @property
    def findings(self) -> list[Finding]:
        """What was noticed and still holds: alarms first, the surest advice next.

        Left out are hints below 60 %, those that the schedule of the rate explains, all on the loss once the task is
        solved, and those that contradict a stronger one.
        """
        return self._course.findings()

    @property
    def hints(self) -> list[Finding]:
        """All advice that holds at the last check, also what is too weak to be among the findings."""
        return [finding for finding, _ in self._course.hints.values()]

    @property
    def error_parts(self) -> ErrorParts | None:
        """Training error, gap to validation, and a bound on label noise; None where losses do not tell."""
        return None if self._manual else self._course.parts

    def plot(self) -> Any:
        """Return the figure: loss, predictions on the first batch over time, gradients and updates."""
        events = [] if self._run is None else self._run.publisher.events
        return figures.draw_training(self._history, self._predictions, self._course.validation, self.findings, events)

    # -- what it follows --------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Alarm]:
        """Each follows a margin that is positive in a sound training."""
        return {
            "finite": Alarm(below=0.5, patience=1),
            "divergence": Alarm(below=0.0, patience=2, recovery=1.0),
            "spike": Alarm(below=0.5, patience=self.patience),
            "silence": Alarm(below=0.5, patience=self.patience),
            "flow": Alarm(below=0.5, patience=self.patience),
            "shrinkage": Alarm(below=0.5, patience=self.patience),
            "idle": Alarm(below=0.5, patience=self.patience),
            "updates": Alarm(below=0.5, patience=1),
            "blow-up": Alarm(below=0.5, patience=1),
            "generalisation": Alarm(below=0.5, patience=self.patience),
        }

    def slowness(self, name: str) -> float:
        """What is NaN needs no grace, nor a rate that is gone, which never ends it; a plateau must have time to end."""
        return {"finite": 0.0, "idle": 0.0, "flow": 2.0}.get(name, 1.0)

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find the folder, on all ranks; the names of parameters; begin to look at the clock."""
        super().started(run, state)
        trainer = run.trainer
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        self._names = list(run.views[0].names) if run.views else []
        module = trainer.lightning_module
        # what cannot be run again, or not with a look inside: no culprit's name, and no fixed batch
        self._closed = not module.automatic_optimization or compiled_as_a_whole(module)
        self._manual = not module.automatic_optimization
        self._coarse = "16" in str(getattr(trainer.precision_plugin, "precision", ""))
        self._total = max(1.0, 10 * self._grace)
        self._ended = self._begun = time.perf_counter()

    # -- a batch ----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the first batch; look at the clock."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._live is None:
            return
        self._begun = time.perf_counter()
        self._waiting += self._begun - self._ended
        self._previous = self._last_batch if self._giant < math.inf else None  # (where the host can read the loss)
        self._last_batch, self._last_index = batch, batch_idx
        if self._batch is None and self._tries < _MOST_TRIES:
            self._tries += 1
            self._take_reference(self._live, batch, batch_idx)

    def _take_reference(self, run: TrainingRun, batch: Any, batch_idx: int) -> None:
        """Keep this batch; try before its step whether running it again leaves no trace and gives the same loss."""
        if self._closed:
            self._tries = _MOST_TRIES
            return
        failed, loss = False, None
        # the module's hook comes between this one and the step; those of other callbacks may write files
        before = partial(run.trainer.lightning_module.on_train_batch_start, batch, batch_idx)
        try:
            loss = loss_of(step_again(run, batch, batch_idx, gradients=True, together=True, before=before))
        except NotRestorableError as error:
            failed = True
            self._tell_of_reference(run, error)
        except Exception:  # of the user's code: if training has it too, it will be told there
            failed = True
        failed, missing = self._anywhere(run, [failed, not isinstance(loss, Tensor)])
        if failed:
            self._tries = _MOST_TRIES
        elif isinstance(loss, Tensor) and not missing:
            self._batch, self._reproduction = batch, (loss.reshape(()).float(), None)

    def _tell_of_reference(self, run: TrainingRun, error: NotRestorableError) -> None:
        text = f"the loss on the first batch is not followed: {error}"
        if not run.first_to_say("no reference batch"):
            return
        if self.reference_batch:
            warn("TrainingDoctor", text)
        else:
            rank_zero_info(f"TrainingDoctor: {text}")

    @staticmethod
    def _anywhere(run: TrainingRun, flags: list[bool]) -> list[bool]:
        """Return which flags hold on any process: whether a batch is run again has to be decided alike."""
        several = run.trainer.world_size > 1
        return on_any_rank(flags, run.trainer.strategy.root_device) if several else flags

    def _followed(self, run: TrainingRun) -> bool:
        """Whether the reference batch is there, and its first step had the loss of the dry run before it."""
        if self._batch is None or self._reproduction is None:
            return self._batch is not None
        expected, actual = self._reproduction
        self._reproduction = None  # (decided once: one host read, at the first check)
        same = self.reference_batch or (
            actual is not None
            and torch.allclose(expected.to(actual), actual, rtol=_SAME_LOSS[self._coarse], atol=0.0, equal_nan=True)
        )
        if self._anywhere(run, [not same])[0]:
            self._batch, self._tries = None, _MOST_TRIES
        return self._batch is not None

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss on the device; where it may be looked at, look for the culprit while weights are still good."""
        super().on_before_backward(trainer, pl_module, loss)
        run = self._live
        if run is None:
            return
        if self._reproduction is not None and self._reproduction[1] is None:
            whole = loss.detach().reshape(()).float() * trainer.accumulate_grad_batches  # Lightning divided it
            self._reproduction = self._reproduction[0], whole
        if len(self._losses) < _MOST_LOSSES:
            self._losses.append(loss.detach().reshape(()))
        value = host.at_hand(loss.detach().reshape(()))
        if value is None or self._culprit:
            return
        if not math.isfinite(value):
            self._culprit = self._look(run, self._last_batch)
        elif value > self._giant:
            self._row = rows = autopsy.outlying_rows(self._last_batch)
            self._culprit = f"batch {self._last_index} made the first giant loss, {value:.3g}" + (
                f": {rows}" * bool(rows)
            )
        elif self._giant == math.inf:
            self._giant = _GIANT * max(abs(value), 1e-12) if not self._manual else math.inf

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """At a check, norms of gradients, and weights before the update."""
        super().gradients_ready(run, page)
        if page.view.index == 0 and self._due():
            self._norms = page.norms().detach()
            self._matrices = [p for p in page.view.parameters if p.ndim > 1 and p.grad is not None][:_MATRICES]
            self._before = [bounded_sample(local(p), _ELEMENTS).clone() for p in self._matrices]

    @torch.no_grad()
    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """How far did the weights go?"""
        if view.index == 0 and self._before:
            after = [bounded_sample(local(p), _ELEMENTS) for p in self._matrices]
            moved = tensor_norms([a - b for a, b in zip(after, self._before, strict=True)])
            self._sizes = tensor_norms(self._before)
            self._ratios = moved / self._sizes.clamp(min=1e-12)
            self._before, self._matrices = [], []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the clock, and check."""
        now = time.perf_counter()
        self._seconds += now - self._ended
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._idle += 1
        if self._idle == _IDLE_BATCHES and self._manual and self._live is not None:
            self._without_updates(self._live)
        self._ended = time.perf_counter()

    def _without_updates(self, run: TrainingRun) -> None:
        """Say so where the module makes no step: then there is no check at which anything else could be seen."""
        if run.views and any(run.clock.attempted(view.index) for view in run.views):
            return
        _, self._states["updates"] = self._alarms["updates"].update(
            0.0, step=run.step, ready=True, state=self._states["updates"]
        )
        self._begin(run, ["updates"], {"batches": float(self._idle)}, run.step)
        self._act(run)
        run.publisher.flush()

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """Nothing is sampled."""
        return 0

    def ready(self, run: TrainingRun) -> bool:
        """Whether there was a loss and an update."""
        return bool(self._losses) and self._norms is not None

    def measure(self, run: TrainingRun) -> Tensor:
        """Losses, norms, ratios, and what the model says to the first batch."""
        losses, norms = self._losses, self._norms
        assert norms is not None
        device = norms.device
        nothing = torch.zeros(0, device=device)
        loss, shown = self._said(run, device)
        rate = run.views[0].optimizer.param_groups[0].get("lr")
        parts = [
            torch.stack([x.to(device, torch.float32) for x in losses]),
            norms,
            *(nothing if numbers is None else numbers.to(device) for numbers in (self._ratios, self._sizes)),
            host.as_scalar(float(bool(self._row)), device).reshape(1),  # decided alike on all processes
            rate.detach().reshape(1).to(device) if isinstance(rate, Tensor) else nothing,
            loss,
        ]
        known = float(rate) if isinstance(rate, (int, float)) else math.nan
        self._layouts.append(_Layout((*map(len, parts), len(shown)), self._waiting, self._seconds, known))
        self._losses, self._norms, self._ratios, self._sizes = [], None, None, None
        self._waiting, self._seconds = 0.0, 0.0
        vector = reduced(run.trainer.strategy, torch.cat(parts), "mean")  # each rank has losses of its own
        return torch.cat([vector, shown])  # (each rank has other samples to show, and perhaps fewer)

    def _said(self, run: TrainingRun, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the loss on the first batch in eval mode ``[1]``, and the predictions for its first samples.

        On several processes with the loss whether it could not be had, ``[2]``.
        """
        nothing = torch.zeros(0, device=device)
        # of the same length on all processes, also where only one of them cannot run it: then all give it up
        several = run.trainer.world_size > 1
        failed = torch.tensor([torch.nan, 1.0] if several else [], device=device)
        if not self._followed(run):
            return failed, nothing
        seen: list[Tensor] = []
        module = run.trainer.lightning_module
        hidden = in_compiled_graphs(module)
        leaves = [m for m in plain_modules(module).values() if not any(m.children()) and id(m) not in hidden]
        handles = [m.register_forward_hook(Hook(lambda _, args, out: seen.extend(floating(out)[:1]))) for m in leaves]
        try:
            output = step_again(run, self._batch, 0, evaluate=True, together=True)
        except Exception as error:  # a training_step that cannot be called twice must not end the run
            self._batch, self._tries = None, _MOST_TRIES
            text = f"the first batch cannot be run again ({type(error).__name__}: {in_one_line(error)})."
            warn("TrainingDoctor", text)
            return failed, nothing
        finally:
            for handle in handles:
                handle.remove()
        loss = output.get("loss") if isinstance(output, Mapping) else output
        said = loss.detach().reshape(1).float() if isinstance(loss, Tensor) else torch.full((1,), torch.nan)
        said = torch.cat([said.to(device), torch.zeros(1, device=device)]) if several else said.to(device)
        named = output.get("logits") if isinstance(output, Mapping) else None
        last = named if isinstance(named, Tensor) else next((t for t in reversed(seen) if t.ndim > 1), None)
        if last is None:
            return said, nothing
        rows = local(last.detach()).reshape(-1, last.shape[-1])[:_SHOWN_SAMPLES]
        return said, (rows.argmax(1) if rows.shape[1] > 1 else rows[:, 0]).float().to(device)

    # -- on the host ------------------------------------------------------------------------------------------------

    def read(self, vector: list[float]) -> dict[str, float]:
        """Curves; and advice, which is no alarm."""
        layout = self._layouts.pop(0)
        numbers = iter(vector)
        losses, norms, ratios, sizes, rows, rates, fixed, shown = (list(islice(numbers, n)) for n in layout.counts)
        self._checks += 1
        step, course = self._checks * self._every, self._course
        failed = bool(fixed[1:]) and fixed[1] > 0
        ratio = sorted(ratios)[len(ratios) // 2] if ratios else math.nan
        rate = rates[0] if rates else layout.rate
        known = fixed[0] if fixed and not failed else math.nan
        course.add(Check(step, math.nan, math.nan, rate, ratio, fixed=known), losses, norms, sizes)
        there = [n for n in norms if n > 0] or [0.0]
        before = dict(course.noted)
        values = {
            "loss": course.checks[-1].mean,
            "loss_std": course.checks[-1].spread,
            "first_gradient": max(there[:2]),
            "last_gradient": max(there[-2:]),
            "update_ratio": ratio,
            "waiting": layout.waited / layout.seconds if layout.seconds else 0.0,
            "_finite": float(not loss_curve.ends_nonfinite(losses)),
            "_vanishing": float(loss_curve.vanishing([n for n in norms if n > 0 or math.isnan(n)])),
            "_silent": float(bool(norms) and not any(norms)),
            "_row": float(any(rows) or Hint.OUTLYING_ROW in course.noted),
        }
        course.follow_spikes(losses, curves=not self._manual)
        if any(rows):
            evidence = self._culprit or "a batch of another process had a row with values far above the others"
            text = "look at that row; scale the inputs, or clip gradients: GradientClip(1.0)"
            course.noted.setdefault(Hint.OUTLYING_ROW, Finding(Hint.OUTLYING_ROW, evidence, 0.85, text, step))
        if failed:
            self._batch, self._tries = None, _MOST_TRIES
        elif fixed:
            values["fixed_batch_loss"] = known
            self._predictions.append((step, shown))
        keep_bounded(self._predictions)
        if self._giant < math.inf:
            self._giant = _GIANT * max([1e-12, *(abs(x) for x in course.usual if math.isfinite(x))])
        self._waited_in_all += layout.waited
        self._seconds_in_all += layout.seconds
        if not self._manual:
            waits = findings.waiting(self._waited_in_all, self._seconds_in_all, step)
            course.advise([waits, *(course.hints_now(round(self._total)) if self._progress >= self._grace else [])])
        self._tell_changes(before)
        return values

    def _tell_changes(self, before: Mapping[Cause | Hint, Finding]) -> None:
        """Tell the loggers what was noted since then, and what no longer holds."""
        run, now = self._live, self._course.noted
        if run is None:
            return
        for kind in [k for k in before if k not in now]:
            run.publisher.put(run.step, {_key(kind): 0.0})
        for kind, finding in now.items():
            if kind not in before:
                run.publisher.put(run.step, {_key(kind): 1.0})
                run.publisher.tell(run.step, _key(kind), str(finding))

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """The margins of what the course of the training says."""
        return self._course.statistics(values, curves=not self._manual, total=round(self._total))

    def explain(self, active: list[str], values: Mapping[str, float]) -> Explained:
        """Name the most serious alarm, and note it as a finding."""
        course, before = self._course, dict(self._course.noted)
        name = next(n for n in _SERIOUS if n in active)
        explained = loss_curve.named(name, values, course.early, course.checks, course.validation, self._culprit)
        cause, reasons, advice = explained
        step = course.checks[-1].step if course.checks else 0
        course.noted.setdefault(cause, Finding(cause, "; ".join(reasons), 0.9, advice[0], step))
        self._tell_changes(before)
        return explained

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Compare the loss of validation with that of training."""
        self._ended = time.perf_counter()  # what went by was no waiting for data
        run = self._live
        if run is None or trainer.sanity_checking or not self._course.checks:
            return
        metrics = {n: v for n, v in trainer.callback_metrics.items() if "val" in n.lower()}
        found = [v for n, v in metrics.items() if "loss" in n.lower()][:1]
        if not found:
            return
        found += [v for n, v in metrics.items() if any(word in n.lower() for word in ("acc", "f1", "auc"))][:1]
        vector = torch.stack([value.detach().float().reshape(()) for value in found])
        if trainer.world_size > 1:
            vector = reduced(trainer.strategy, vector.to(trainer.strategy.root_device), "mean")
        loss, *score = vector.tolist()
        train, before = self._course.checks[-1].mean, dict(self._course.noted)
        over = self._course.validated(loss, score)
        self._tell_changes(before)
        state, ready = self._states["generalisation"], self._progress >= self._grace
        begins, state = self._alarms["generalisation"].update(
            0.0 if over else 1.0, step=run.step, ready=ready, state=state
        )
        self._states["generalisation"] = state
        gap = loss - train
        run.publisher.put(run.step, {"diagnosis/training_doctor/validation_gap": gap})
        if begins:
            self._begin(run, ["generalisation"], {"validation_gap": gap, "loss": train}, run.step)
            self._act(run)
            run.publisher.flush()

    def rolled_back(self, run: TrainingRun) -> None:
        """The curves begin anew, but for the loss before training."""
        super().rolled_back(run)
        self._course.restart()
        self._losses, self._norms, self._before, self._ratios, self._sizes = [], None, [], None, None
        self._layouts, self._culprit, self._row = [], "", ""

    # -- the first module that is not finite ------------------------------------------------------------------------

    def _look(self, run: TrainingRun, batch: Any) -> str:
        """Return where NaN or inf comes from: the batch and its rows, the weights, or a module's output."""
        where = f"batch {self._last_index}"
        if any(not bool(torch.isfinite(t).all()) for t in floating(batch)):
            return f"the batch itself holds NaN or inf: {where}, {autopsy.outlying_rows(batch)}"
        names = autopsy.nonfinite_names(run.trainer.lightning_module)
        if names:
            text = f"weights or buffers are not finite, first {names[0]!r} ({len(names)} in all), from {where} on"
            rows = "" if self._previous is None else autopsy.outlying_rows(self._previous)
            return f"{text}; in the batch before it {rows}" if rows else text
        rows = autopsy.outlying_rows(batch)
        return "; ".join(text for text in (f"{where} is the first", rows, self._first_module(run, batch)) if text)

    def _first_module(self, run: TrainingRun, batch: Any) -> str:
        """Return the first module whose output is not finite, in words; empty where the step cannot be run again."""
        module = run.trainer.lightning_module
        if self._closed or _waits_for_others(run):  # (other processes may be sound, and do not look)
            return ""
        hidden = in_compiled_graphs(module)
        watched = {n: m for n, m in plain_modules(module).items() if n and id(m) not in hidden}
        try:
            with Trace(watched) as trace:
                step_again(run, batch, self._last_index)
        except Exception:
            return ""
        for call in trace.calls():
            if call.largest_output == math.inf and call.largest_input < math.inf and not call.masks:
                return f"the output of {call.name!r} is the first that is not finite"
        return "every module's output is finite, the loss is not: look for log(0) or a division by 0 in it"

    # -- the end ----------------------------------------------------------------------------------------------------

    def finished(self, run: TrainingRun) -> None:
        """Say what is left at the end: the findings that hold, where the error comes from, or that nothing is wrong."""
        super().finished(run)
        updates = run.clock.attempted(0) if run.views else 0
        if not updates or not self._course.checks:
            return
        told = [f"TrainingDoctor: {finding}" for finding in self.findings]
        if not told:
            told = [f"TrainingDoctor: nothing wrong was found in {updates} updates"]
            rank_zero_info(told[0])
        parts = self.error_parts
        if parts is not None:
            numbers = {"initial": parts.start, "training": parts.train}
            if math.isfinite(parts.last):
                numbers |= {"validation_best": parts.best, "validation": parts.last}
            put = {f"{self.prefix(run)}/error/{name}": value for name, value in numbers.items()}
            run.publisher.put(run.step, put)
            told += parts.sentences()
        run.publisher.tell(run.step, "diagnosis/summary", "\n\n".join(told))
        run.publisher.flush()

    def figure(self) -> Callable[[], Any] | None:
        """The whole training."""
        return self.plot

    def _show(self, run: TrainingRun, verdict: Any) -> None:
        super()._show(run, verdict)
        if self.action == "stop" or isinstance(self.action, Rollback):
            self._write(run, f"alarm: {verdict}", None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write the report, before everything is cleaned up."""
        run = self._live
        pruned = type(exception).__name__ == "TrialPruned"  # a hyperparameter search ends a trial so; nothing failed
        if run is not None and not pruned and not isinstance(exception, KeyboardInterrupt):
            self._write(run, f"{type(exception).__name__}: {exception}", exception)
        super().on_exception(trainer, pl_module, exception)

    def _write(self, run: TrainingRun, why: str, error: BaseException | None) -> None:
        """Write ``health.json`` and ``health.txt``; never raises, and waits for no other process."""
        if self._folder is None or not run.trainer.is_global_zero:
            return
        try:
            path = autopsy.write(self._report(run, why, error), self._folder)
            print(f"TrainingDoctor: {path}")
        except Exception as problem:
            warnings.warn(
                f"TrainingDoctor: no report ({type(problem).__name__}: {problem}).", RuntimeWarning, stacklevel=2
            )

    def _report(self, run: TrainingRun, why: str, error: BaseException | None) -> dict[str, Any]:
        trainer = run.trainer
        report: dict[str, Any] = {
            "why": why[:2000],
            "step": run.step,
            "epoch": trainer.current_epoch,
            "precision": str(getattr(trainer.precision_plugin, "precision", "")),
            "verdicts": [str(t.verdict) for t in run.tricks if isinstance(t, Detector) and t.verdict.alarmed],
            "findings": [str(finding) for finding in self.findings],
            "culprit": self._culprit,
            "last_losses": [*self._course.usual, *self._course.spike][-10:],
            "checks": [{"step": step, **values} for step, values in self._history[-3:]],
        }
        parts: dict[str, Callable[[], Any]] = {
            "learning_rates": lambda: [float(g["lr"]) for v in run.views for g in v.optimizer.param_groups],
            "loss_scale": lambda: None if run.loss_scale.scale() is None else float(run.loss_scale.scale()),  # type: ignore[arg-type]
            "nonfinite_weights": lambda: autopsy.nonfinite_names(trainer.lightning_module)[:20],
            "gradient_norms": self._present_norms,
            "last_batch": lambda: autopsy.batch_statistics(self._last_batch),
            "exception": lambda: None if error is None else autopsy.of_exception(error),
        }
        for name, part in parts.items():  # a device that has failed must not take the rest along
            try:
                report[name] = part()
            except Exception as problem:
                report[name] = f"not known ({type(problem).__name__}: {problem})"
        return report

    def _present_norms(self) -> dict[str, float]:
        run = self.run
        view = run.views[0]
        norms = {n: p.grad for n, p in zip(view.names, view.parameters, strict=True) if p.grad is not None}
        values = [float(torch.linalg.vector_norm(local(g).float())) for g in norms.values()]
        rows = sorted(zip(norms, values, strict=True), key=lambda row: -row[1] if math.isfinite(row[1]) else -math.inf)
        return dict(rows[:12])

    def stopped(self, run: TrainingRun) -> None:
        """Let go of the batches."""
        super().stopped(run)
        self._batch, self._last_batch, self._previous, self._norms, self._before = None, None, None, None, []
        self._tries, self._reproduction = 0, None

    # -- state ------------------------------------------------------------------------------------------------------

    def trick_state(self) -> dict[str, Any]:
        """Also findings and curves."""
        own = {"losses": [float(x) for x in self._losses], "culprit": self._culprit}
        return {**super().trick_state(), **self._course.state_dict(), **own}

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        super()._take_up(run, state)
        self._course.load(state)
        self._losses = [torch.tensor(x) for x in state["losses"]]
        self._culprit = state["culprit"]
        # not by the number of points: those of a long run were thinned out
        checks = self._course.checks
        self._checks = max(0, round(checks[-1].step / self._every)) if checks else 0


def _waits_for_others(run: TrainingRun) -> bool:
    """Whether a forward pass needs all processes: with sharded parameters, and in SyncBatchNorm."""
    modules = run.trainer.lightning_module.modules()
    synced = any(isinstance(m, torch.nn.SyncBatchNorm) for m in modules)
    return run.trainer.world_size > 1 and (synced or any(view.sharded for view in run.views))


def _key(kind: Cause | Hint) -> str:
    return f"diagnosis/{kind.replace(' ', '_')}"
