"""LossScaleGuard, PrecisionDoctor and FP32Islands: Lightning's hooks on one side, the pure files on the other."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_tricks.dry_run.isolated import step_again
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import (
    NonFiniteError,
    NotRestorableError,
    TrickError,
    UnsupportedError,
    listed,
    message,
    require_choice,
    require_count,
)
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.modules.names import in_compiled_graphs, plain_modules, reachable, refuse_compiled
from lightning_tricks.modules.trace import Call, Trace, floating, largest
from lightning_tricks.numerics import form, host
from lightning_tricks.numerics.norms import nonfinite, tensor_norms
from lightning_tricks.numerics.shards import on_any_rank, reduced
from lightning_tricks.numerics.state import State
from lightning_tricks.optimizer_step.gradient_writer import make_skipping_safe
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.precision import health
from lightning_tricks.precision.health import Finding, Findings
from lightning_tricks.precision.islands import Islands
from lightning_tricks.precision.plugins import CachedMixedPrecision
from lightning_tricks.precision.scale_policy import ScalePolicy, on_host
from lightning_tricks.precision.watch import Watch, picked
from lightning_tricks.publishing.publish import Cadence

_AUTO = "auto"
_STREAK = 8
_SMALL_SCALE = 16.0
_LATE = 512  # attempts kept at most when nothing is logged
_INITIAL_SCALE = 65536.0


def _precision_of(trainer: Any) -> str:
    return str(getattr(trainer.precision_plugin, "precision", "32-true"))


def _finite(losses: Sequence[Tensor]) -> Tensor:
    """Whether all losses are, 0-d, not read."""
    return torch.isfinite(torch.stack([x.reshape(()) for x in losses])).all()


def _known(flag: Tensor) -> bool | Tensor:
    """The flag where the host may look at it; else as it is."""
    value = host.at_hand(flag)
    return flag if value is None else bool(value)


def _tell_of_cpu(run: TrainingRun, owner: str) -> None:
    """On a CPU, Lightning turns 16-mixed into bf16-mixed; nothing in the Trainer shows later that it did."""
    on_cpu = run.trainer.strategy.root_device.type == "cpu" and _precision_of(run.trainer) == "bf16-mixed"
    if on_cpu and run.first_to_say("cpu"):
        warn(
            owner,
            "this run computes in bf16-mixed, which has no loss scale. On a CPU Lightning turns precision='16-mixed' "
            "into it without more than a warning. For float16 on a CPU: plugins=[MixedPrecision('16-mixed', 'cpu')].",
        )


def _nonfinite_names(view: OptimizerView) -> list[str]:
    """Parameters whose gradient is NaN or inf now: one host read."""
    present = [(n, p.grad) for n, p in zip(view.names, view.parameters, strict=True) if p.grad is not None]
    if not present:
        return []
    bad = nonfinite(tensor_norms([g._values() if g.is_sparse else g for _, g in present])).tolist()
    return [name for (name, _), is_bad in zip(present, bad, strict=True) if is_bad]


class _Attempt:
    """An attempt under a GradScaler: open until it is known whether it was skipped."""

    def __init__(self, page: Page) -> None:
        self.view, self.step, self.number, self.losses = page.view, page.step, page.attempt, list(page.losses)
        self.outcome: bool | Tensor = True  # a step that the scaler skips fires no hook

    def stepped(self) -> None:
        found = getattr(self.view.optimizer, "found_inf", None)
        self.outcome = False if found is None else _known(found)

    def loss_finite(self) -> bool:
        """One host read."""
        return not self.losses or bool(_finite(self.losses))


_FINDING = form.record(
    {**dict.fromkeys(("kind", "module", "text", "advice"), form.text), "step": form.step, "times": form.whole}
)


@final
class LossScaleGuard(Trick):
    """Keep the loss scale of 16-mixed within bounds, and end or rescue a run in which every update is skipped.

    A GradScaler skips an update whose gradients hold NaN or inf, and halves the scale. When all of them do, Lightning
    2.6.6 goes on to the end: scale 0.0, not one update, status "finished". With the guard the run fails as soon as
    ``max_consecutive_skips`` is exceeded, and says which parameters and, beside a ``PrecisionDoctor``, which module.

    Args:
        min_scale: the scale is never below it, > 0.
        max_scale: the scale is never above it; None for no bound.
        max_consecutive_skips: attempts in a row that may be skipped, per optimizer. One more is a failure.
        on_failure: ``"raise"`` ends the run; ``"warn"`` says it once per failure; ``"bf16"`` and ``"fp32"`` go on in
            bf16-mixed or 32-true from the next batch on, weights and optimizer state as they are. After such a change
            a loss that stays NaN or inf for as long ends the run.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        UnsupportedError: at fit start, ``"bf16"`` on a GPU that has none, or fused SGD with dampening.
        NonFiniteError: while training, with ``on_failure="raise"``, or when the change of precision did not help.

    Logs:
        - ``amp/scale``: the loss scale in use; ``amp/skipped_steps``: attempts that were no updates, since the start;
          both at logged steps, the latter per optimizer when there are several.

    Changes:
        The scale, where it is out of bounds; the precision of the Trainer, after a failure and if asked to. The
        Trainer then stays in it, also for ``test`` and ``predict``. Fused SGD with momentum gets its buffers as zeros
        (the same first update): torch leaves them uninitialised when the first step is skipped.

    State:
        Skips so far and in a row, and the precision that it changed to: a resumed run goes on in that precision.

    Cost:
        No host read beyond the one that GradScaler makes. With a fused optimizer only the device knows about skips:
        there the count is copied asynchronously once half of the limit may have passed, and waited for at the limit.

    Example:
        >>> from lightning_tricks import LossScaleGuard
        >>> LossScaleGuard(max_consecutive_skips=10, on_failure="bf16").on_failure
        'bf16'

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740; Lightning #20619, #9799.
    """

    state_form = staticmethod(
        form.record(
            {
                "counts": form.many(form.record(dict.fromkeys(("version", "consecutive", "skipped"), form.whole))),
                "fallback": form.maybe(form.one_of("bf16", "fp32")),
            },
            more=True,
        )
    )

    def __init__(
        self,
        min_scale: float = 1.0,
        max_scale: float | None = None,
        max_consecutive_skips: int = 20,
        on_failure: Literal["raise", "warn", "bf16", "fp32"] = "raise",
    ) -> None:
        self.min_scale, self.max_scale, self.max_consecutive_skips = min_scale, max_scale, max_consecutive_skips
        self.on_failure = require_choice("LossScaleGuard", "on_failure", on_failure, ("raise", "warn", "bf16", "fp32"))
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._policy = ScalePolicy(self.min_scale, self.max_scale, self.max_consecutive_skips)
        self._counts: list[State] = []
        self._known: list[int] = []
        self._known_at: list[int] = []
        self._seen: list[int] = []
        self._open: dict[int, _Attempt] = {}
        self._told: set[int] = set()
        self._fallback: str | None = None

    @property
    def skipped_steps(self) -> int:
        """Attempts that were skipped so far, of all optimizers (one host read where only the device knows)."""
        return sum(on_host(state)["skipped"] for state in self._counts)

    @property
    def fallback(self) -> str | None:
        """The precision that the guard changed to, ``"bf16"`` or ``"fp32"``; None when it did not."""
        return self._fallback

    def configuration(self) -> dict[str, Any]:
        """The arguments."""
        return {n: getattr(self, n) for n in ("min_scale", "max_scale", "max_consecutive_skips", "on_failure")}

    def configure(self, run: TrainingRun) -> None:
        """Check that the precision to go on in is there; keep the losses for the message."""
        device = run.trainer.strategy.root_device
        run.watch_loss = True
        if self.on_failure == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            text = f"{torch.cuda.get_device_name(device)} has no bfloat16"
            raise UnsupportedError(message("LossScaleGuard", "on_failure", "bf16", text, "Use 'fp32' or 'raise'"))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up the counts; go on in the precision that was changed to."""
        count = len(run.views)
        saved = (state or {}).get("counts") or self._counts
        self._counts = [dict(s) for s in saved] if len(saved) == count else [self._policy.init() for _ in run.views]
        self._known = [int(s["consecutive"]) for s in self._counts]
        self._seen, self._known_at, self._open = [0] * count, [0] * count, {}
        self._cadence = Cadence(run.trainer.log_every_n_steps, run.step)
        if state is not None and state.get("fallback") and run.loss_scale.active:
            self._switch(run, state["fallback"])
        _tell_of_cpu(run, "LossScaleGuard")
        if not run.loss_scale.active and self._fallback is None and run.first_to_say("no loss scale"):
            rank_zero_info(
                f"LossScaleGuard: precision {_precision_of(run.trainer)} has no loss scale; nothing to guard."
            )
        run.loss_scale.bound(self.min_scale, self.max_scale)
        for view in run.views if run.loss_scale.active else ():
            make_skipping_safe(view)

    def trick_state(self) -> dict[str, Any]:
        """Counts as plain numbers, and the precision in use."""
        return {"counts": [on_host(s) for s in self._counts], "fallback": self._fallback}

    # -- an attempt -----------------------------------------------------------------------------------------------

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """An attempt begins."""
        index = page.view.index
        if index in self._open:  # manual optimization stepped twice within one batch
            self._close(run, index)
        if run.loss_scale.active:
            self._open[index] = _Attempt(page)
        elif self._fallback is not None and page.losses:
            self._open[index] = attempt = _Attempt(page)
            bad = (~_finite(page.losses)).to(torch.float32)
            # losses differ between processes, and all must end at the same attempt
            attempt.outcome = _known(reduced(run.trainer.strategy, bad, "sum"))
        if self._cadence.due(page.step) and (scale := run.loss_scale.scale()) is not None:
            run.publisher.put(page.step, {"amp/scale": scale})

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """The optimizer's step ran: on the host, or on a device that may have skipped it."""
        if view.index in self._open and self.run.loss_scale.active:
            self._open[view.index].stepped()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, bound the scale, and act on a failure; between two updates."""
        run = self._live
        if run is not None and self._open:
            for index in list(self._open):
                self._close(run, index)
            run.loss_scale.bound(self.min_scale, self.max_scale)

    def _close(self, run: TrainingRun, index: int) -> None:
        attempt = self._open.pop(index)
        self._counts[index] = state = self._policy.update(attempt.outcome, self._counts[index])
        self._seen[index] += 1
        if isinstance(attempt.outcome, Tensor):
            self._ask(run, index, attempt.step)
        else:
            self._hear(index, float(state["consecutive"]), self._seen[index])
        if self._cadence.due(attempt.step) and self._fallback is None:
            suffix = f"/optimizer{index}" if len(run.views) > 1 else ""
            run.publisher.put(attempt.step, {f"amp/skipped_steps{suffix}": state["skipped"]})
        if self._policy.failed(self._known[index]) and self._known_at[index] == self._seen[index]:
            self._fail(run, attempt)

    def _hear(self, index: int, consecutive: float, at: int) -> None:
        self._known[index], self._known_at[index] = int(consecutive), at
        if not consecutive:
            self._told.discard(index)

    def _ask(self, run: TrainingRun, index: int, step: int) -> None:
        """Have the device's count copied once it may matter; wait for it only at the limit."""
        at = self._seen[index]
        possible = self._known[index] + at - self._known_at[index]
        if 2 * possible <= self.max_consecutive_skips:
            return
        count = self._counts[index]["consecutive"].reshape(1)
        run.publisher.put_private(step, count, lambda values: self._hear(index, values[0], at))
        if self._policy.failed(possible):
            run.publisher.flush()

    # -- a failure ------------------------------------------------------------------------------------------------

    def _fail(self, run: TrainingRun, attempt: _Attempt) -> None:
        text = self._describe(run, attempt)
        if self._fallback is not None:
            text = f"LossScaleGuard: also in {self._fallback} the loss stays NaN or inf. {text}"
            raise NonFiniteError(f"{text} Go back to a checkpoint and look for a division by 0 or log(0).")
        if self.on_failure == "raise":
            raise NonFiniteError(f"LossScaleGuard: {text} LossScaleGuard(on_failure='bf16') would go on in bf16-mixed.")
        if self.on_failure == "warn":
            if attempt.view.index not in self._told:
                self._told.add(attempt.view.index)
                warn("LossScaleGuard", text)
            return
        self._switch(run, self.on_failure)
        self._counts = [{**state, "consecutive": 0} for state in self._counts]
        self._known = [0] * len(self._counts)
        buffers = run.trainer.lightning_module.named_buffers()
        polluted = [name for name, b in buffers if b.is_floating_point() and not b.isfinite().all()]
        if polluted:
            names = ", ".join(polluted[:6])
            text += f" NaN or inf is left in the buffers {names}: reset them (BatchNorm: reset_running_stats())."
        warn("LossScaleGuard", f"{text} Training goes on in {_precision_of(run.trainer)}.")

    def _describe(self, run: TrainingRun, attempt: _Attempt) -> str:
        count = self._known[attempt.view.index]
        names = _nonfinite_names(attempt.view)
        shown = listed(names, 8)
        at = f" at loss scale {_scale_used(run):g}" if run.loss_scale.active else ""
        loss = "finite" if attempt.loss_finite() else "not finite"
        doctor = next((t for t in run.tricks if isinstance(t, PrecisionDoctor)), None)
        told = [str(f) for f in doctor.findings if not f.ordinary] if doctor is not None else []
        advice = "PrecisionDoctor() beside it names the module; precision='bf16-mixed' has the range of float32."
        more = " ".join(told) if told else advice
        return (
            f"{count} attempts in a row were skipped, the last one attempt {attempt.number} (step {attempt.step}){at}. "
            f"Gradients with NaN or inf: {shown or 'none now'}. The loss was {loss}. {more}"
        )

    def _switch(self, run: TrainingRun, precision: str) -> None:
        """Between two updates; everything in Lightning looks the plugin up at each step."""
        trainer = run.trainer
        package = (
            "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_lightning") else "lightning.pytorch"
        )
        plugins = importlib.import_module(f"{package}.plugins.precision")
        old, plugin = trainer.precision_plugin, plugins.Precision()
        if precision == "bf16":
            make = CachedMixedPrecision if isinstance(old, CachedMixedPrecision) else plugins.MixedPrecision
            plugin = make("bf16-mixed", old.device)
        trainer.strategy.precision_plugin = plugin
        run.loss_scale.retire()
        self._fallback = precision


@final
class PrecisionDoctor(Trick):
    """Look at activations and gradients module by module, and explain skipped updates.

    At logged steps it measures each module's largest output and largest gradient, the share of gradient elements below
    float16's normal range, and the headroom to 65,504 in bits. When an update is skipped under 16-mixed it runs the
    forward pass of that batch once more, without gradients and in a snapshot that puts everything back (where something
    cannot be, a warning names it and nothing is run), and tells apart:

    - a module whose output is not finite although its input is ("forward overflow in block.3.mlp"),
    - a loss that is not finite although every output is,
    - a loss scale that was too large: forward pass and loss are finite (ordinary, the scaler's way of working),
    - gradients that stay NaN however small the scale gets (a derivative that is infinite).

    Args:
        every_n_steps: measure at every n-th step of Lightning's loggers; None for the Trainer's ``log_every_n_steps``.
        modules: names or globs of the modules to measure; None for all that have no children.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, a name or glob matches no module.
        UnsupportedError: at fit start, the whole LightningModule is compiled, or a named module is inside of a
            compiled one. (A submodule that ``torch.compile`` wraps is measured from outside.)

    Logs:
        - ``amp/headroom/<module>``: ``log2(65504 / largest output)`` since the last logged step, in bits.
        - ``amp/underflow/<module>``: share of the nonzero elements of the output's gradient below 2^-14, at the present
          loss scale (2^16 where there is none: what 16-mixed would begin with); 1 when all elements are 0.
        - ``amp/scale``, ``amp/skipped_steps``: as ``LossScaleGuard``, where that is not in use.
        - values are those of the first process.

    Changes:
        Nothing: the weights are bit-identical to those of a run without it.

    State:
        The findings so far.

    Cost:
        Two reductions of each output and of its gradient at logged steps, one copy to the host there; nothing at other
        steps. After a skip: one forward pass, in at most 10 + 1 % of all attempts.

    Example:
        >>> from lightning_tricks import PrecisionDoctor
        >>> PrecisionDoctor(modules=["encoder.*"]).findings
        []

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740.
    """

    observer = True
    state_form = staticmethod(form.record({"findings": form.many(_FINDING), "looks": form.whole}, more=True))

    def __init__(self, every_n_steps: int | None = None, modules: list[str] | None = None) -> None:
        owner = "PrecisionDoctor"
        if every_n_steps is not None:
            require_count(owner, "every_n_steps", every_n_steps, remedy="Use e.g. 50, or None for the Trainer's")
        self.every_n_steps = every_n_steps
        self.modules = None if modules is None else _checked_patterns(owner, modules)
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._findings = Findings()
        self._table: dict[str, dict[str, float]] = {}
        self._looks = 0
        self._watch: Watch | None = None
        self._all: dict[str, nn.Module] = {}
        self._batch: tuple[Any, int] | None = None
        self._attempts: list[_Attempt] = []
        self._due: tuple[int, Tensor | None] | None = None
        self._late: list[_Attempt] = []
        self._suspicious = False
        self._trace: Trace | None = None
        self._hopeless: set[int] = set()
        self._shown = True

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, the most serious kinds first."""
        return list(self._findings)

    @property
    def overflowing(self) -> list[str]:
        """Modules whose output overflowed in the forward pass, so far."""
        return [f.module for f in self._findings if f.kind == "forward overflow" and f.module in self._all]

    @property
    def table(self) -> dict[str, dict[str, float]]:
        """The last measurement: module -> ``largest_output``, ``largest_gradient``, ``headroom``, ``underflow``."""
        return {name: dict(row) for name, row in self._table.items()}

    def configuration(self) -> dict[str, Any]:
        """The arguments."""
        return {"every_n_steps": self.every_n_steps, "modules": self.modules}

    def configure(self, run: TrainingRun) -> None:
        """Keep the losses of each attempt."""
        run.watch_loss = True
        refuse_compiled(run.trainer.lightning_module, "PrecisionDoctor")

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find the modules, take up old findings, look at the optimizers' eps."""
        trainer, precision = run.trainer, _precision_of(run.trainer)
        n = trainer.log_every_n_steps if self.every_n_steps is None else self.every_n_steps
        self._cadence = Cadence(n, run.step)
        self._half = precision in ("16-mixed", "16-true")
        self._streak = [0] * len(run.views)
        self._attempts, self._late, self._due, self._shown = [], [], None, False
        chosen = self._find(trainer.lightning_module)
        self._watch = Watch(chosen, 1.0 if self._half else _INITIAL_SCALE, self.guard)
        self._keys = {kind: [f"amp/{kind}/{name}" for name in chosen] for kind in ("headroom", "underflow")}
        if state is not None:
            self._findings, self._looks = Findings([Finding(**f) for f in state["findings"]]), state["looks"]
        _tell_of_cpu(run, "PrecisionDoctor")
        for group in (g for view in run.views for g in view.optimizer.param_groups if precision == "16-true"):
            if "betas" in group and torch.tensor(group.get("eps", 1.0), dtype=torch.float16) == 0:
                self._note(health.small_eps(group["eps"], run.step))

    def _find(self, module: nn.Module) -> dict[str, nn.Module]:
        known, hidden = plain_modules(module), in_compiled_graphs(module)
        self._all = {n: m for n, m in known.items() if n and id(m) not in hidden}
        if self.modules is None:  # (a compiled part counts as a leaf: its inside cannot be seen)
            leaves = (n for n, m in self._all.items() if all(id(c) in hidden for c in m.children()))
            chosen = [n for n in leaves if not isinstance(self._all[n], (nn.Identity, nn.Flatten, Metric))]
        else:
            chosen = reachable(known, hidden, self.modules, "PrecisionDoctor", self.modules)
        return {n: self._all[n] for n in chosen}

    def trick_state(self) -> dict[str, Any]:
        """The findings, as plain values."""
        return {"findings": [vars(f).copy() for f in self._findings], "looks": self._looks}

    # -- measuring at logged steps ----------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Hooks on, for a step that will be logged."""
        run = self._live
        if run is not None and self._watch is not None:
            self._batch = (batch, batch_idx) if run.loss_scale.active else None
            if self._cadence.due(run.step):
                self._watch.attach()
            if self._suspicious:
                self._trace = Trace(self._all, self.guard)
                self._trace.attach()

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """An attempt is complete."""
        if run.loss_scale.active:
            self._attempts.append(_Attempt(page))
        if self._due is None and self._cadence.due(page.step):
            scale = run.loss_scale.scale()
            self._due = page.step, None if scale is None else scale.clone()

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """The optimizer's step ran: on the host, or on a device that may have skipped it."""
        for attempt in self._attempts:
            if attempt.view is view:
                attempt.stepped()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hooks off; explain what was skipped, publish what was seen."""
        run = self._live
        if run is not None and self._watch is not None:
            self._watch.detach()
            attempts, self._attempts = self._attempts, []
            for attempt in attempts:
                self._follow(run, attempt)
            if self._trace is not None and attempts:
                self._read_trace(self._trace, attempts[-1])
            self._drop_trace()
            if self._due is not None:
                (step, scale), self._due = self._due, None
                self._publish(run, self._watch, step, scale)
            self._batch = None

    @torch.no_grad()
    def _publish(self, run: TrainingRun, watch: Watch, step: int, scale: Tensor | None) -> None:
        put = run.publisher
        if scale is not None and not any(isinstance(trick, LossScaleGuard) for trick in run.tricks):
            skipped = sum(run.clock.attempted(v.index) - run.clock.applied(v.index) for v in run.views)
            put.put(step, {"amp/scale": scale, "amp/skipped_steps": skipped})
        self._send_late(run, step)
        if not watch.names:
            return
        measured = watch.collect(run.views[0].device)
        shown = {
            "headroom": (watch.called, health.headroom(measured[0])),
            "underflow": (watch.flowed, health.underflow(measured[2:])),
        }
        for kind, (positions, values) in shown.items():  # (a module that was not called has no value)
            if positions:
                put.put_many(step, [self._keys[kind][i] for i in positions], picked(values, positions))
        used = torch.ones(1) if scale is None else scale.reshape(1)
        names, size = list(watch.names), len(watch.names)

        def heard(values: list[float]) -> None:
            rows = [values[i * size : (i + 1) * size] for i in range(4)]
            self._table = health.readable(names, rows, values[-1])
            for finding in health.judge(names, watch.dtypes, rows, half=self._half, step=step):
                self._note(finding)

        put.put_private(step, torch.cat([measured.reshape(-1), used.to(measured.device)]), self.guard(heard))

    # -- explaining skipped updates ---------------------------------------------------------------------------------

    def _follow(self, run: TrainingRun, attempt: _Attempt) -> None:
        """Explain a skip; say when there were too many in a row for ordinary ones."""
        index = attempt.view.index
        if isinstance(attempt.outcome, Tensor):  # only the device knows; it is told at the next logged step
            self._late.append(attempt)
            if len(self._late) >= _LATE:
                self._send_late(run, attempt.step)
            return
        if not attempt.outcome:
            self._streak[index] = 0
            self._hopeless.discard(index)
            return
        self._streak[index] += 1
        if not run.trainer.lightning_module.automatic_optimization:
            self._suspicious = True  # such a step cannot be run twice; the next batch is watched instead
        elif self._looks < 10 + run.clock.attempted(index) / 100:
            self._explain(run, attempt)
        if self._streak[index] >= _STREAK and index not in self._hopeless and attempt.loss_finite():
            scale = _scale_used(run)
            if scale <= _SMALL_SCALE or self._streak[index] >= 2 * _STREAK:
                self._hopeless.add(index)
                names = _nonfinite_names(attempt.view)
                self._note(health.hopeless(scale, names, self._streak[index], attempt.step))

    def _send_late(self, run: TrainingRun, step: int) -> None:
        attempts, self._late = self._late, []
        if not attempts:
            return
        found = torch.stack([a.outcome.reshape(()) for a in attempts if isinstance(a.outcome, Tensor)])

        def heard(values: list[float]) -> None:
            skipped = [a for a, value in zip(attempts, values, strict=True) if value]
            self._suspicious = bool(skipped)
            for attempt in skipped:
                self._note(health.unexplained(attempt.loss_finite(), attempt.step))

        run.publisher.put_private(step, found, self.guard(heard))

    def _read_trace(self, trace: Trace, attempt: _Attempt) -> None:
        """A batch was watched because updates had been skipped: does its forward pass explain that?"""
        self._suspicious = False
        finding = health.explain(trace.calls(), loss_finite=True, input_finite=True, step=attempt.step)
        if finding is not None:
            self._note(finding)

    def _explain(self, run: TrainingRun, attempt: _Attempt) -> None:
        """Look at the forward pass of a batch whose update was skipped."""
        self._looks += 1
        seen, finding = self._forward_again(run), None
        if seen is not None:
            calls, loss_finite, input_finite = seen
            finding = health.explain(calls, loss_finite=loss_finite, input_finite=input_finite, step=attempt.step)
        found = [finding] if finding is not None else []
        if run.trainer.world_size > 1:
            found = self._of_all_processes(run, finding, attempt.step)
        elif not found and (seen is None or not attempt.loss_finite()):
            found = [health.unexplained(attempt.loss_finite(), attempt.step)]
        for each in found or [health.too_large(_scale_used(run), _nonfinite_names(attempt.view), attempt.step)]:
            self._note(each)

    def _forward_again(self, run: TrainingRun) -> tuple[list[Call], bool, bool] | None:
        """Return the calls of all modules, whether the loss and whether the batch were finite; None if it cannot be."""
        if self._batch is None or not run.trainer.lightning_module.automatic_optimization:
            return None
        batch, batch_idx = self._batch
        trace = Trace(self._all)
        try:
            with trace:
                losses = floating(loss_of(step_again(run, batch, batch_idx)))
            tops = [[largest(t) for t in floating(x)] for x in (losses, batch)]
            finite = [all(float(t) < torch.inf for t in top) for top in tops]
            return trace.calls(), finite[0], finite[1]
        except Exception as error:  # a training_step that cannot be called twice must not end the run
            if run.first_to_say("PrecisionDoctor cannot look again"):
                what = error.what if isinstance(error, NotRestorableError) else f"{type(error).__name__}: {error}"
                warn("PrecisionDoctor", f"a skipped update's forward pass cannot be looked at again ({what}).")
            return None

    def _of_all_processes(self, run: TrainingRun, finding: Finding | None, step: int) -> list[Finding]:
        """Return the overflows of all processes. All must call; each has another batch, and decisions must be equal."""
        names, own = list(self._all), [] if finding is None else [finding]
        if not names:
            return own
        mine = finding.module if finding is not None and finding.kind == "forward overflow" else None
        anywhere = on_any_rank([name == mine for name in names], run.trainer.strategy.root_device)
        overflowing = [name for name, there in zip(names, anywhere, strict=True) if there]
        return [own[0] if name == mine else health.overflow_elsewhere(name, step) for name in overflowing] or own

    def _drop_trace(self) -> None:
        if self._trace is not None:
            self._trace.detach()
        self._trace = None

    def _note(self, finding: Finding) -> None:
        if self._findings.add(finding) and finding.serious:
            warn("PrecisionDoctor", str(finding))

    # -- the end ----------------------------------------------------------------------------------------------------

    def finished(self, run: TrainingRun) -> None:
        """Deliver what came after the last logged step."""
        self._send_late(run, run.step)
        run.publisher.flush()

    def stopped(self, run: TrainingRun) -> None:
        """Take the hooks away, and show what was found."""
        if self._watch is not None:
            self._watch.detach()
        self._drop_trace()
        self._watch, self._batch, self._attempts, self._late, self._all = None, None, [], [], {}
        if not self._shown and len(self._findings) and run.trainer.is_global_zero:
            Console().print(self._as_table())
        self._shown = True

    def _as_table(self) -> Table:
        table = Table(title="PrecisionDoctor")
        for title in ("what", "where", "step", "times", "seen", "what to do"):
            table.add_column(title, justify="right" if title in ("step", "times") else "left")
        for same in health.grouped(self.findings):
            f = same[0]
            where = listed([each.module for each in same], 3)
            table.add_row(f.kind, where, str(f.step), str(f.times), f.text, f.advice)
        return table


@final
class FP32Islands(Trick):
    """Run named modules in float32 inside a mixed-precision run.

    Inputs of such a module are cast to float32, autocast is off inside of it, and its output stays float32 until
    autocast casts it for whoever comes next. The module's weights are float32 anyway under mixed precision. For
    functions in ``training_step`` use ``lightning_tricks.functional.in_fp32``.

    Args:
        modules: names or globs, as ``["head", "blocks.*.norm", "loss*"]``. ``"auto"`` stands for the modules in whose
            forward pass a ``PrecisionDoctor`` of the same Trainer found an overflow, from the next batch on.

    Raises:
        TypeError: ``modules`` is no list of str.
        ValueError: it is empty.
        TrickError: at fit start, a pattern matches no module, or ``"auto"`` has no doctor.
        UnsupportedError: at fit start, the precision keeps weights in 16 bit, or a module is part of a compiled graph.

    Logs:
        Nothing.

    Changes:
        The precision in which these modules compute, in training, validation, test and prediction.

    State:
        The islands that ``"auto"`` found: a resumed run has them from its first batch.

    Cost:
        Two hooks per module and call; float32 arithmetic in these modules.

    Example:
        >>> from lightning_tricks import FP32Islands
        >>> FP32Islands(["head"]).islands
        []

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740, section 3.3 (fp32 arithmetic).
    """

    identity = ("modules",)

    state_form = staticmethod(form.record({"found": form.many(form.text)}, more=True))

    def __init__(self, modules: list[str]) -> None:
        self.modules = _checked_patterns("FP32Islands", modules)
        self.reset()

    def reset(self) -> None:
        """Forget what was found."""
        self._islands: Islands | None = None
        self._names: list[str] = []
        self._found: list[str] = []

    @property
    def islands(self) -> list[str]:
        """The modules that are islands, or were in the last run."""
        return list(self._names)

    def configuration(self) -> dict[str, Any]:
        """Nothing beyond the identity."""
        return {}

    def configure(self, run: TrainingRun) -> None:
        """``auto`` needs a doctor."""
        if _AUTO in self.modules and not any(isinstance(c, PrecisionDoctor) for c in run.trainer.callbacks):
            text = "'auto' takes the modules that a PrecisionDoctor finds"
            raise TrickError(
                message("FP32Islands", "modules", self.modules, text, "Add PrecisionDoctor() to callbacks")
            )

    # modules may be made in configure_model, which comes after setup; validation may come before training
    def assembled(self, run: TrainingRun) -> None:
        """Make the islands."""
        self._make(run.trainer, run.trainer.lightning_module)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the islands."""
        super().on_validation_start(trainer, pl_module)
        self._make(trainer, pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the islands."""
        self._make(trainer, pl_module)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the islands."""
        self._make(trainer, pl_module)

    def _make(self, trainer: Any, pl_module: Any) -> None:
        if self._islands is not None:
            return
        precision = _precision_of(trainer)
        if precision not in ("16-mixed", "bf16-mixed", "32-true", "64-true"):
            text = f"precision={precision!r} keeps the weights themselves in 16 bit"
            remedy = "Use precision='16-mixed' or 'bf16-mixed'"
            raise UnsupportedError(message("FP32Islands", "modules", self.modules, text, remedy))
        refuse_compiled(pl_module, "FP32Islands")
        known, hidden = plain_modules(pl_module), in_compiled_graphs(pl_module)
        patterns = [p for p in self.modules if p != _AUTO]
        names = reachable(known, hidden, patterns, "FP32Islands", self.modules)
        self._islands = Islands(trainer.strategy.root_device.type)
        self._names = [*names, *(n for n in self._found if n in known and n not in names)]
        for name in self._names:
            self._islands.add(name, known[name])

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up the islands that were found before."""
        if _AUTO in self.modules and run.trainer.world_size > 1 and any(v.scaled for v in run.views):
            text = "'auto' with a fused optimizer on several processes cannot decide the same on all of them"
            raise UnsupportedError(
                message("FP32Islands", "modules", self.modules, text, "Use fused=False, or name them")
            )
        if state is not None:
            self._add(run, state["found"])

    def trick_state(self) -> dict[str, Any]:
        """What was found."""
        return {"found": list(self._found)}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Make islands of what the doctor has found."""
        run = self._live
        if run is not None and _AUTO in self.modules:
            doctor = next(t for t in run.tricks if isinstance(t, PrecisionDoctor))
            self._add(run, [n for n in doctor.overflowing if n not in self._found])

    def _add(self, run: TrainingRun, names: Sequence[str]) -> None:
        known = plain_modules(run.trainer.lightning_module) if names else {}
        for name in names:
            self._found.append(name)
            if self._islands is not None and name in known:
                self._names.append(name)
                self._islands.add(name, known[name])
                rank_zero_info(f"FP32Islands: {name!r} runs in float32 from now on.")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the modules as they were."""
        self._drop()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Make the modules as they were."""
        self._drop()
        super().on_exception(trainer, pl_module, exception)

    def _drop(self) -> None:
        if self._islands is not None:
            self._islands.remove()
        self._islands = None


def _checked_patterns(owner: str, modules: object) -> list[str]:
    remedy = "Use e.g. ['head', 'blocks.*.norm']"
    if not isinstance(modules, (list, tuple)) or not all(isinstance(m, str) and m for m in modules):
        raise TypeError(message(owner, "modules", modules, "modules must be a list of names or globs", remedy))
    if not modules:
        raise ValueError(message(owner, "modules", modules, "modules must name at least one module", remedy))
    return list(modules)


def _scale_used(run: TrainingRun) -> float:
    """The scale of the attempt that was just skipped; the scaler has lowered it since. One host read."""
    scaler, scale = run.loss_scale.scaler, run.loss_scale.scale()
    return 1.0 if scaler is None or scale is None else scale.item() / scaler.get_backoff_factor()
