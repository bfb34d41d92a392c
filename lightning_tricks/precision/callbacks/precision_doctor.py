"""PrecisionDoctor: Lightning's hooks on one side, the measuring and explaining parts of this package on the other."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from rich.console import Console
from torch import Tensor

from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.modules.names import refuse_compiled
from lightning_tricks.numerics import form
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.precision import health
from lightning_tricks.precision.findings import Finding, Findings, as_table
from lightning_tricks.precision.keys import DOCTOR, LOSS_SCALE
from lightning_tricks.precision.skip_explainer import SkipExplainer
from lightning_tricks.precision.specs import DoctorSpec
from lightning_tricks.precision.trainer_precision import precision_of
from lightning_tricks.precision.watch import Watch, chosen, watchable
from lightning_tricks.publishing.publish import Cadence
from lightning_tricks.publishing.worst_series import STATE_FORM as WORST_FORM
from lightning_tricks.publishing.worst_series import WorstSeries

_INITIAL_SCALE = 65536.0  # of a GradScaler
_FINDING = form.record(
    {**dict.fromkeys(("kind", "module", "text", "advice"), form.text), "step": form.step, "times": form.count}
)


@final
class PrecisionDoctor(Trick):
    """Look at activations and gradients module by module, and explain skipped updates.

    At logged steps it measures each module's largest output and largest gradient, the share of gradient elements below
    float16's normal range, and the headroom to 65,504 in bits. When an update is skipped under 16-mixed it runs the
    forward pass of that batch once more, without gradients and in a snapshot that puts everything back (where something
    cannot be, a warning names it and nothing is run), and distinguishes:

    - a module whose output is not finite although its input is ("forward overflow in block.3.mlp"),
    - a loss that is not finite although every output is,
    - a loss scale that was too large: forward pass and loss are finite (ordinary, the scaler's way of working),
    - gradients that stay NaN however small the scale gets (a derivative that is infinite).

    Args:
        every_n_steps: measure at every n-th step of Lightning's loggers; None for the Trainer's ``log_every_n_steps``.
        modules: names or globs of the modules to measure, each of which is logged; ``["*"]`` for every one. None for
            all that have no children, of which the worst are logged: see below.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, a name or glob matches no module.
        UnsupportedError: at fit start, the whole LightningModule is compiled, or a named module is inside of a
            compiled one. (A submodule that ``torch.compile`` wraps is measured from outside.)

    Logs:
        - ``amp/headroom``: of the module with the least, ``log2(65504 / largest output)``, in bits (see ``table``).
        - ``amp/underflow``: of the module with the most, in 16 bit: share of the nonzero elements of the output's
          gradient below 2^-14, at the present loss scale; 1 when all elements are 0.
        - ``amp/headroom/<module>``: in 16 bit of the five modules with the largest outputs; a module gives its place up
          only to one whose running mean is more than twice as large, and at most seven ever get a curve.
        - ``amp/headroom/<module>``, ``amp/underflow/<module>``: in any precision, of each module that ``modules``
          names; in 32 bit for the scale 2^16, with which 16-mixed would begin.
        - ``amp/scale``, ``amp/skipped_steps``: as ``LossScaleGuard``, where that is not in use.
        - values are those of the first process.

    Changes:
        Nothing: the weights are bit-identical to those of a run without it.

    State:
        The findings so far, and which modules have curves.

    Cost:
        Two reductions of each output and of its gradient at logged steps, one copy to the host there; nothing at other
        steps. After a skip: one forward pass, in at most 10 + 1 % of all attempts.

    Example:
        >>> from lightning_tricks import PrecisionDoctor
        >>> PrecisionDoctor(modules=["encoder.*"]).findings
        []

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740.
    """

    log_keys = LOSS_SCALE + DOCTOR
    observer = True
    state_form = staticmethod(
        form.record(
            {"findings": form.list_of(_FINDING), "looks": form.count}, more=True, optional={"modules": WORST_FORM}
        )
    )

    def __init__(self, every_n_steps: int | None = None, modules: list[str] | None = None) -> None:
        spec = DoctorSpec(every_n_steps, modules)
        self.every_n_steps, self.modules = spec.every_n_steps, spec.modules
        self._reset()

    def _reset(self) -> None:
        self._findings = Findings()
        self._table: dict[str, dict[str, float]] = {}
        self._explainer = SkipExplainer(self._note, self.guard)
        self._watch: Watch | None = None
        self._due: tuple[int, Tensor | None] | None = None  # the logged step under way, and its loss scale
        self._shown = True
        self._worst = WorstSeries()

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, the most serious kinds first."""
        return list(self._findings)

    @property
    def overflowing(self) -> list[str]:
        """Modules whose output overflowed in the forward pass, so far."""
        there = self._explainer.modules
        return [f.module for f in self._findings if f.kind == "forward overflow" and f.module in there]

    @property
    def table(self) -> dict[str, dict[str, float]]:
        """The last measurement: module -> ``largest_output``, ``largest_gradient``, ``headroom``, ``underflow``."""
        return {name: dict(row) for name, row in self._table.items()}

    def _configure(self, run: TrainingRun) -> None:
        """Keep the losses of each attempt."""
        run.attempts.keeps_losses = True
        refuse_compiled(run.trainer.lightning_module, "PrecisionDoctor")

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find the modules, take up old findings, look at the optimizers' eps."""
        trainer, precision = run.trainer, precision_of(run.trainer)
        n = trainer.log_every_n_steps if self.every_n_steps is None else self.every_n_steps
        self._cadence = Cadence(n, run.step)
        self._half = precision in ("16-mixed", "16-true")
        self._due, self._shown = None, False
        self._explainer.start(watchable(trainer.lightning_module), len(run.views))
        modules = chosen(trainer.lightning_module, self.modules, owner="PrecisionDoctor")
        # Without float16, underflow is told for the scale with which a GradScaler would start.
        self._watch = Watch(modules, 1.0 if self._half else _INITIAL_SCALE, self.guard)
        if state is not None:
            self._findings = Findings([Finding(**f) for f in state["findings"]])
            self._explainer.looks = state["looks"]
            self._worst = self._worst.restored(state["modules"]) if "modules" in state else self._worst
        run.dispatch.rest(self, "_updated", when=not run.loss_scale.active)
        if precision == "16-true":
            groups = [group for view in run.views for group in view.optimizer.param_groups]
            for finding in health.small_epses(groups, run.step):
                self._note(finding)

    def _trick_state(self) -> dict[str, Any]:
        """The findings, and which modules have curves, as plain values."""
        findings = [vars(f).copy() for f in self._findings]
        return {"findings": findings, "looks": self._explainer.looks, "modules": self._worst.state()}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Attach hooks, for a step that will be logged or that follows a skip."""
        run = self.live_run
        if run is not None and self._watch is not None:
            if self._cadence.due(run.step):
                self._watch.attach()
            self._explainer.begin_batch(run, batch, batch_idx)

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Note an attempt; at a logged step also the loss scale, which the scaler may change after it."""
        if run.loss_scale.active:
            self._explainer.open(page)
        if self._due is None and self._cadence.due(page.step):
            scale = run.loss_scale.scale()
            # a copy: the scaler writes into its tensor after the step
            self._due = page.step, None if scale is None else scale.clone()

    def _updated(self, view: OptimizerView, page: Page | None) -> None:
        """The optimizer's step ran: on the host, or on a device that may have skipped it."""
        self._explainer.stepped(view)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take hooks away; explain what was skipped, publish what was measured."""
        run = self.live_run
        if run is not None and self._watch is not None:
            self._watch.detach()
            self._explainer.end_batch(run)
            if self._due is not None:
                (step, scale), self._due = self._due, None
                self._publish(run, self._watch, step, scale)

    @torch.no_grad()
    def _publish(self, run: TrainingRun, watch: Watch, step: int, scale: Tensor | None) -> None:
        # LossScaleGuard logs the same keys. Told by what a trick says of itself, so that neither file imports the other
        logged = any(getattr(trick, "logs_loss_scale", False) for trick in run.tricks)
        if scale is not None and not logged:
            skipped = sum(run.clock.attempted(v.index) - run.clock.applied(v.index) for v in run.views)
            run.publisher.put(step, {"amp/scale": scale, "amp/skipped_steps": skipped})
        self._explainer.send_late(run, step)
        if not watch.names:
            return
        measured = watch.collect(run.views[0].device)
        if self.modules is not None:
            for kind, positions, values in health.shares(measured, watch.called, watch.flowed):
                run.publisher.put_many(step, [f"amp/{kind}/{watch.names[i]}" for i in positions], values)
        used = torch.ones(1) if scale is None else scale.reshape(1)
        self._judge_later(run, watch, step, torch.cat([measured.reshape(-1), used.to(measured.device)]))

    def _judge_later(self, run: TrainingRun, watch: Watch, step: int, vector: Tensor) -> None:
        """Judge what was measured, and choose what is logged of it, on the host; its last number is the loss scale."""
        names, size = list(watch.names), len(watch.names)

        def on_arrival(values: list[float]) -> dict[str, float]:
            rows = [values[i * size : (i + 1) * size] for i in range(4)]
            self._table = health.readable(names, rows, values[-1])
            for finding in health.judge(names, watch.dtypes, rows, half=self._half, step=step):
                self._note(finding)
            return self._logged(self._table)

        run.publisher.put_selected(step, vector, self.guard(on_arrival))

    def _logged(self, table: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the worst values of a table; in 16 bit also the headroom of the modules that have curves."""
        found = {"amp/headroom": min((row["headroom"] for row in table.values()), default=math.inf)}
        shares = [row["underflow"] for row in table.values() if not math.isnan(row["underflow"])]
        if self._half:
            found |= {"amp/underflow": max(shares)} if shares else {}
            outputs = [row["largest_output"] for row in table.values()]
            self._worst = self._worst.after(list(table), outputs)
        if self._half and self.modules is None:
            found |= {f"amp/headroom/{name}": table[name]["headroom"] for name in self._worst.shown}
        return found if table else {}

    def _note(self, finding: Finding) -> None:
        if self._findings.add(finding) and finding.serious:
            warn("PrecisionDoctor", str(finding))

    def _finished(self, run: TrainingRun) -> None:
        """Deliver what came after the last logged step."""
        self._explainer.send_late(run, run.step)
        run.publisher.flush()

    def _cleanup(self, run: TrainingRun) -> None:
        """Take the hooks away, and show what was found."""
        if self._watch is not None:
            self._watch.detach()
        self._explainer.stop()
        self._watch = None
        if not self._shown and len(self._findings) and run.trainer.is_global_zero:
            Console().print(as_table(self.findings))
        self._shown = True
