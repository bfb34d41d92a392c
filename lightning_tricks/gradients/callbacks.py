"""GradientMonitor and GradientClip: Lightning's hooks on one side, the pure files of this room on the other."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from lightning_tricks.errors import (
    ConflictError,
    NonFiniteError,
    TrickError,
    UnsupportedError,
    message,
    require_choice,
    require_count,
    require_flag,
    require_number,
)
from lightning_tricks.gradients.clip_statistics import ClipStatistics
from lightning_tricks.gradients.noise_scale import NoiseScale, signal_and_noise
from lightning_tricks.gradients.nonfinite import NonFinite, NonFiniteWatch
from lightning_tricks.gradients.parts import Parts
from lightning_tricks.gradients.rules import AGC, ClipNorm, ClipRule, ClipValue, adaptive_coefficient
from lightning_tricks.measure.norms import bounded_sample, group_norms, tensor_norms, total_norm
from lightning_tricks.measure.state import State, fitting, moved
from lightning_tricks.runtime.action import warn
from lightning_tricks.runtime.gradient_writer import make_skipping_safe
from lightning_tricks.runtime.logbook import OptimizerView, Page
from lightning_tricks.runtime.publish import Cadence, draws_histograms
from lightning_tricks.runtime.run import TrainingRun
from lightning_tricks.runtime.selection import assign, check_patterns, matching
from lightning_tricks.runtime.shards import local
from lightning_tricks.runtime.trick import Trick

_HISTOGRAM_SAMPLE = 16384
_SETTLE_AFTER = 64


def _suffix(run: TrainingRun, view: OptimizerView) -> str:
    """Several optimizers step in one batch: each gets keys of its own."""
    return f"/optimizer{view.index}" if len(run.views) > 1 else ""


@final
class GradientMonitor(Trick):
    """Measure gradient norms at every update and log them, without waiting for the device.

    ``norm = (sum_i |g_i|^p)^(1/p)`` over the parameters of the optimizer that steps, of the true gradients: unscaled
    (also under 16-mixed with a fused optimizer), accumulated, before any clipping, of the whole model when it is
    sharded.

    Args:
        every_n_steps: log every n-th step of Lightning's loggers; None for the Trainer's ``log_every_n_steps``.
        per_layer: log the norm of each parameter too.
        groups: name -> regular expression on parameter names; the norm of each group is logged.
        norm_type: p > 0, or inf.
        update_ratio: log ``||w_new - w|| / ||w||`` of each parameter, from at most 65,536 elements of each. About 1e-3
            is usual; it follows the learning rate, so watch its change, not its value.
        noise_scale: log the gradient noise scale (McCandlish et al. 2018), the batch size that still pays. Needs
            gradient accumulation, where it costs one more read of the gradients at logged steps.
        histograms: send a sample of each gradient (at most 16,384 elements) to loggers that draw histograms.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, a group matches no parameter, groups overlap, or ``noise_scale`` has no accumulation.

    Logs:
        - ``grad/norm``, ``grad/norm_log10``: at logged steps. The latter because TensorBoard leaves out outliers.
        - ``grad/norm/<parameter>``, ``grad/group/<name>``, ``grad/update_ratio/<parameter>``: at logged steps.
        - ``grad/nonfinite``: attempts with a NaN or inf gradient since the last logged step.
        - ``grad/noise_scale``: in samples.
        - with several optimizers the first, second, fifth and last end in ``/optimizer<index>``.
        - ``grad/norm`` is in ``trainer.callback_metrics`` too, for EarlyStopping and ModelCheckpoint.

    Changes:
        Nothing: the weights are bit-identical to those of a run without it.

    State:
        The averages of the noise scale. A resume with other arguments goes on with the new ones.

    Cost:
        One read of the gradients per update, shared with GradientClip; no host read but one copy at logged steps.
        No gradient-sized memory. Sharded models: one all-reduce of one number per parameter.

    Example:
        >>> from lightning_tricks import GradientMonitor
        >>> GradientMonitor(every_n_steps=10, groups={"head": "^head"}).every_n_steps
        10

    Reference: McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162 (noise scale).
    """

    identity = ("groups",)

    def __init__(
        self,
        every_n_steps: int | None = None,
        per_layer: bool = True,
        groups: dict[str, str] | None = None,
        norm_type: float = 2.0,
        update_ratio: bool = False,
        noise_scale: bool = False,
        histograms: bool = False,
    ) -> None:
        owner = "GradientMonitor"
        if every_n_steps is not None:
            require_count(owner, "every_n_steps", every_n_steps, remedy="Use e.g. 50, or None for the Trainer's")
        if norm_type != float("inf") or isinstance(norm_type, str):
            require_number(owner, "norm_type", norm_type, remedy="Use 2.0, 1.0 or float('inf')")
        self.every_n_steps = every_n_steps
        self.per_layer = require_flag(owner, "per_layer", per_layer)
        self.groups = check_patterns(owner, "groups", groups)
        self.norm_type = float(norm_type)
        self.update_ratio = require_flag(owner, "update_ratio", update_ratio)
        self.noise_scale = require_flag(owner, "noise_scale", noise_scale)
        self.histograms = require_flag(owner, "histograms", histograms)
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._nonfinite: dict[str, int] = {}
        self._noise: State | None = None
        self._warned = False
        self._before: dict[int, list[Tensor]] = {}
        self._window = _Window()

    @property
    def nonfinite_layers(self) -> dict[str, int]:
        """Parameters whose gradient was NaN or inf -> in how many attempts, up to the last logged step."""
        return dict(self._nonfinite)

    @property
    def suggested_batch_size(self) -> int | None:
        """The noise scale, rounded to samples: a larger batch saves few steps. None before it was measured."""
        value = float("nan") if self._noise is None else float(NoiseScale().value(self._noise))
        return max(1, round(value)) if 0 < value < float("inf") else None

    def configuration(self) -> dict[str, Any]:
        """The arguments."""
        names = ("every_n_steps", "per_layer", "norm_type", "update_ratio", "noise_scale", "histograms")
        return {name: getattr(self, name) for name in names}

    def configure(self, run: TrainingRun) -> None:
        """Check that what is asked for can be had in this run."""
        trainer = run.trainer
        run.watch_loss = True
        if self.noise_scale:
            if not trainer.lightning_module.automatic_optimization:
                text = "the noise scale needs automatic optimization, which tells micro-batches apart"
                raise UnsupportedError(message("GradientMonitor", "noise_scale", True, text, "Set it to False"))
            scheduled = any(hasattr(c, "get_accumulate_grad_batches") for c in trainer.callbacks)
            if trainer.accumulate_grad_batches == 1 and not scheduled:
                text = "the noise scale needs gradient accumulation, which gives a small and a large batch"
                remedy = "Use Trainer(accumulate_grad_batches=2) or more"
                raise TrickError(message("GradientMonitor", "noise_scale", True, text, remedy))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Resolve names, once."""
        trainer = run.trainer
        n = trainer.log_every_n_steps if self.every_n_steps is None else self.every_n_steps
        self._cadence = Cadence(n, run.step)
        if self.histograms and not any(draws_histograms(logger) for logger in trainer.loggers):
            warn("GradientMonitor", "histograms=True, but no logger draws histograms. Add a TensorBoardLogger.")
        self._watches = [NonFiniteWatch(view.names) for view in run.views]
        self._group_of: list[Tensor] = []
        if self.groups is not None:
            names = [name for view in run.views for name in view.names]
            placed = assign(names, self.groups, owner="GradientMonitor")
            for view in run.views:
                mine, placed = placed[: len(view.names)], placed[len(view.names) :]
                self._group_of.append(torch.tensor(mine, device=view.device))
        if self.noise_scale and run.views:
            device = run.views[0].device
            fresh = NoiseScale().init(device)
            saved = (state or {}).get("noise") or self._noise
            self._noise = fresh if saved is None else fitting("GradientMonitor", moved(saved, device), fresh)

    def trick_state(self) -> dict[str, Any]:
        """The averages of the noise scale."""
        return {"noise": None if self._noise is None else moved(self._noise, torch.device("cpu"))}

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Measure; publish at logged steps."""
        due = self._cadence.due(page.step)
        if page.empty:
            return
        norms = page.norms(self.norm_type)
        self._watches[page.view.index].note(page.attempt, norms, page.loss_finite)
        if due:
            self._publish_norms(run, page, norms)
            self._publish_extras(run, page)

    def _publish_norms(self, run: TrainingRun, page: Page, norms: Tensor) -> None:
        view, put, suffix = page.view, run.publisher, _suffix(run, page.view)
        total = total_norm(norms, self.norm_type)
        put.put(page.step, {f"grad/norm{suffix}": total, f"grad/norm_log10{suffix}": total.log10()})
        run.trainer.lightning_module.log(
            f"grad/norm{suffix}", total, logger=False, on_step=True, on_epoch=False, batch_size=1
        )
        if self.per_layer:
            put.put_many(page.step, [f"grad/norm/{name}" for name in view.names], norms)
        if self.groups is not None:
            group_of = self._group_of[view.index]
            present = group_of >= 0
            # the last, extra group takes what is in none; a group without parameters in this optimizer is left out
            spare = torch.where(present, group_of, len(self.groups))
            values = group_norms(norms, spare, len(self.groups) + 1, self.norm_type)
            for j in sorted(set(group_of.tolist()) - {-1}):
                put.put(page.step, {f"grad/group/{list(self.groups)[j]}": values[j]})
        self._report(run, view, page.step)

    def _publish_extras(self, run: TrainingRun, page: Page) -> None:
        view = page.view
        if self.update_ratio:
            self._before[view.index] = [bounded_sample(local(p)).clone() for p in view.parameters]
        if self.histograms and any(draws_histograms(logger) for logger in run.trainer.loggers):
            inverse = view.loss_scale.inverse(view.optimizer)
            for i, values in zip(page.present, page.values(), strict=True):
                sample = bounded_sample(values, _HISTOGRAM_SAMPLE).float()
                sample = sample if inverse is None else sample * inverse
                run.publisher.put_histogram(page.step, f"grad/histogram/{view.names[i]}", sample)
        if self.noise_scale and self._noise is not None:
            self._measure_noise(run, page)

    def _report(self, run: TrainingRun, view: OptimizerView, step: int) -> None:
        watch = self._watches[view.index]
        vector, attempts = watch.report()
        if not attempts:
            return
        names = [f"nonfinite{view.index}.{i}" for i in range(len(vector))]
        run.publisher.put(step, {f"grad/nonfinite{_suffix(run, view)}": vector[: len(attempts)].sum()})
        run.publisher.put_many(step, names, vector, silent=True)

        def told(values: dict[str, float]) -> None:
            found = watch.read([values[name] for name in names], attempts)
            if found is not None:
                self._tell(run, found)

        run.publisher.listen(step, told)

    def _tell(self, run: TrainingRun, found: NonFinite) -> None:
        for name, times in found.layers.items():
            self._nonfinite[name] = self._nonfinite.get(name, 0) + times
        spoken_for = any(isinstance(trick, GradientClip) for trick in run.tricks) or run.loss_scale.active
        if not self._warned and not spoken_for:
            self._warned = True
            warn("GradientMonitor", f"{found} GradientClip(nonfinite='skip') leaves such updates out.")

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """The weights have moved: by how much?"""
        before = self._before.pop(view.index, None)
        if before is None or page is None:
            return
        run = self.run
        with torch.no_grad():
            after = [bounded_sample(local(p)) for p in view.parameters]
            moves = tensor_norms([a.float() - b.float() for a, b in zip(after, before, strict=True)])
            moves, sizes = view.shards.norms(moves, 2.0), view.shards.norms(tensor_norms(before), 2.0)
        names = [f"grad/update_ratio/{name}" for name in view.names]
        run.publisher.put_many(page.step, names, moves / sizes.clamp(min=1e-12))

    def finished(self, run: TrainingRun) -> None:
        """Tell what came after the last logged step."""
        for view in run.views:
            self._report(run, view, run.step)

    # -- noise scale: the first micro-batch of a window against the whole window ---------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count samples."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.noise_scale and self._live is not None:
            self._window.next_size = int(extract_batch_size(batch))

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """A window begins."""
        self._window.begin()

    @torch.no_grad()
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Take the norm of the first micro-batch's gradient, in windows that will be logged."""
        run = self._live
        if not self.noise_scale or run is None:
            return
        window = self._window
        window.add()
        if window.batches == 1 and self._cadence.due(run.step):
            view = run.views[0]
            gradients = [local(p.grad) for p in view.parameters if p.grad is not None]
            norms = tensor_norms(gradients)
            if len(gradients) == len(view.parameters):
                norms = view.shards.norms(norms, 2.0)
            scale = run.loss_scale.scale()
            window.first_norm = total_norm(norms if scale is None else norms / scale)

    def _measure_noise(self, run: TrainingRun, page: Page) -> None:
        window, trainer = self._window, run.trainer
        if window.first_norm is None or window.batches < 2 or self._noise is None:
            return
        # Lightning divides every loss by the full window, also in a shorter last one
        full = trainer.accumulate_grad_batches
        world = trainer.world_size
        small = window.first_size * (world if page.view.sharded else 1)
        large_norm = total_norm(page.norms(2.0)) * (full / window.batches)
        signal, noise = signal_and_noise(window.first_norm * full, large_norm, small, window.samples * world)
        self._noise = NoiseScale().update(signal, noise, self._noise)
        run.publisher.put(page.step, {"grad/noise_scale": NoiseScale().value(self._noise)})


class _Window:
    """The micro-batches of one accumulation window so far."""

    def __init__(self) -> None:
        self.next_size = 0
        self.begin()

    def begin(self) -> None:
        self.batches = self.samples = self.first_size = 0
        self.first_norm: Tensor | None = None

    def add(self) -> None:
        self.batches += 1
        self.samples += self.next_size
        self.first_size = self.first_size or self.next_size


@final
class GradientClip(Trick):
    """Clip gradients by a rule, and decide what happens to NaN and inf.

    Works where ``Trainer(gradient_clip_val=)`` refuses or is wrong: fused optimizers under bf16-mixed and 16-mixed,
    manual optimization (also under 16-mixed), several optimizers, sharded models.

    Args:
        rule: a number c for ``ClipNorm(c)``, or a rule: ``ClipNorm``, ``ClipValue``, ``AGC``, ``AutoClip``, ``ZClip``,
            ``AdaGC``.
        per: what gets a coefficient of its own: the ``"model"`` (all parameters of an optimizer), each ``"group"`` (of
            ``groups``, else the optimizer's parameter groups), or each ``"layer"`` (parameter tensor).
        nonfinite: what happens when a gradient holds NaN or inf. ``"skip"``: the update does not happen, moments and
            counters stay. ``"zero"``: such elements become 0. ``"warn"``: it goes through, and is told at the next
            logged step. ``"raise"``: training ends with the names of the layers, weights untouched. Steps that a
            GradScaler finds too large are the scaler's to skip, whatever is said here.
        groups: name -> regular expression on parameter names. With ``per="group"`` each is clipped by itself and the
            other parameters of the same optimizer form a group ``"rest"``. Otherwise they pick the optimizers that this
            instance is for (a GAN takes two instances); then all parameters of an optimizer must match, or none.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range, or ``per`` contradicts the rule.
        ConflictError: at fit start, ``gradient_clip_val`` is set, or another GradientClip has the same optimizer.
        TrickError: at fit start, a pattern matches nothing or groups overlap.
        NonFiniteError: while training, with ``nonfinite="raise"``.

    Logs:
        - ``grad/clip_coefficient``: at logged steps, 1 for not clipped; of several parts the smallest.
        - ``grad/clipped_fraction``: share of updates clipped since the start of training (of all parts).
        - with several optimizers both end in ``/optimizer<index>``.

    Changes:
        Gradients, by one factor: in place, or folded into a fused optimizer's step. Skips updates.

    State:
        The rule's, and the statistics. A resume with another rule begins that rule anew, and says so.

    Cost:
        One read of the gradients, shared with GradientMonitor, and one write (none with a fused optimizer and
        ``per="model"``). ``"zero"``: one more of each. Host reads: none with a fused optimizer, a GradScaler, ``"warn"``
        or ``"zero"``; else one per update, since torch offers no skip on the device there. With a fused optimizer
        ``"raise"`` skips at once and raises at the next logged step.

    Example:
        >>> from lightning_tricks import GradientClip, ZClip
        >>> GradientClip(0.5).rule
        ClipNorm(max_norm=0.5, norm_type=2.0)
        >>> GradientClip(ZClip(z=3.0), nonfinite="raise").rule.z
        3.0

    Reference: Pascanu et al., 2013, arXiv:1211.5063; the rules name theirs.
    """

    identity = ("groups",)

    def __init__(
        self,
        rule: float | ClipRule = 1.0,
        per: Literal["model", "group", "layer"] = "model",
        nonfinite: Literal["skip", "zero", "warn", "raise"] = "skip",
        groups: dict[str, str] | None = None,
    ) -> None:
        self.rule = _as_rule(rule)
        self.per = require_choice("GradientClip", "per", per, ("model", "group", "layer"))
        self.nonfinite = require_choice("GradientClip", "nonfinite", nonfinite, ("skip", "zero", "warn", "raise"))
        self.groups = check_patterns("GradientClip", "groups", groups)
        own = self.rule.granularity
        if own is not None and self.per not in ("model", own):
            text = f"{type(self.rule).__name__} always works per {own}"
            raise ValueError(message("GradientClip", "per", per, text, "Leave per= out"))
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._parts: dict[int, Parts] = {}
        self._states: dict[int, State] = {}
        self._statistics: dict[int, State] = {}
        self._pending: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._excluded: dict[int, set[int]] = {}
        self._watches: dict[int, NonFiniteWatch] = {}
        self._warned = False

    # -- what was measured --------------------------------------------------------------------------------------

    @property
    def clipped_fraction(self) -> float:
        """Share of updates whose gradient was clipped since the start of training; 0.0 before the first."""
        return self._ratio("clipped", "updates")

    @property
    def mean_coefficient(self) -> float:
        """Mean coefficient over the clipped updates; 1.0 when none was clipped."""
        return self._ratio("coefficients", "clipped") or 1.0

    @property
    def suggested_threshold(self) -> float | dict[str, float] | None:
        """The 90th percentile of the finite norms: as a threshold it clips one update in ten.

        A number for one model and optimizer, else a dict by part; None before the first update, and for AGC, whose
        threshold is a ratio.
        """
        if isinstance(self.rule, AGC):
            return None
        self._settle()
        found: dict[str, float] = {}
        for index, state in self._statistics.items():
            values = ClipStatistics().percentiles(90.0, state).tolist()
            prefix = f"optimizer{index}." if len(self._statistics) > 1 else ""
            pairs = zip(self._parts[index].names, values, strict=True)
            found |= {prefix + name: value for name, value in pairs if value == value}
        if list(found) == ["model"]:
            return found["model"]
        return found or None

    def _ratio(self, above: str, below: str) -> float:
        self._settle()
        sums = [sum(float(s[name].sum()) for s in self._statistics.values()) for name in (above, below)]
        return sums[0] / sums[1] if sums[1] else 0.0

    # -- the run ------------------------------------------------------------------------------------------------

    def configure(self, run: TrainingRun) -> None:
        """Refuse a second clipper."""
        trainer = run.trainer
        run.watch_loss = True
        if trainer.gradient_clip_val:
            text = "Trainer(gradient_clip_val=) clips too"
            value = trainer.gradient_clip_val
            raise ConflictError(message("GradientClip", "gradient_clip_val", value, text, "Remove one of the two"))
        if is_overridden("configure_gradient_clipping", trainer.lightning_module):
            name = type(trainer.lightning_module).__name__
            warn("GradientClip", f"{name}.configure_gradient_clipping is overridden and runs after it. Remove one.")

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Resolve names and take up the state."""
        self._cadence = Cadence(run.trainer.log_every_n_steps or 50, run.step)
        self._parts = {}
        if self.nonfinite == "zero" and run.loss_scale.active:
            warn("GradientClip", "nonfinite='zero' does nothing under a GradScaler, which skips such steps itself.")
        claimed = self._claim(run)
        for view in claimed:
            self._refuse_two(run, view)
            self._parts[view.index] = self._split(view)
            self._watches[view.index] = NonFiniteWatch(view.names)
            if self.nonfinite in ("skip", "raise") or run.loss_scale.active:
                make_skipping_safe(view)
            self._take_up(view, state)

    def _claim(self, run: TrainingRun) -> list[OptimizerView]:
        """Return the optimizers that this instance is for."""
        if self.groups is None:
            return list(run.views)
        names = [name for view in run.views for name in view.names]
        placed = assign(names, self.groups, owner="GradientClip")
        claimed = []
        for view in run.views:
            mine, placed = placed[: len(view.names)], placed[len(view.names) :]
            hits = sum(j >= 0 for j in mine)
            if hits and hits < len(mine) and self.per != "group":
                left = view.names[mine.index(-1)]
                text = f"with per={self.per!r} groups pick whole optimizers, but {left!r} of optimizer {view.index} is in none"
                raise TrickError(message("GradientClip", "groups", self.groups, text, "Use per='group', or match all"))
            if hits:
                claimed.append(view)
        return claimed

    def _refuse_two(self, run: TrainingRun, view: OptimizerView) -> None:
        for trick in run.tricks:
            if isinstance(trick, GradientClip) and trick is not self and view.index in trick._parts:
                text = f"optimizer {view.index} has another GradientClip(rule={trick.rule!r})"
                raise ConflictError(message("GradientClip", "rule", self.rule, text, "Remove one, or use groups="))

    def _split(self, view: OptimizerView) -> Parts:
        if isinstance(self.rule, AGC):
            if view.sharded:
                text = "AGC needs whole output units, and this model is sharded"
                raise UnsupportedError(message("GradientClip", "rule", self.rule, text, "Use ClipNorm or AdaGC"))
            out = self.rule.exclude
            hits = [set(matching(view.names, pattern, owner="AGC", argument="exclude")) for pattern in out]
            self._excluded[view.index] = set().union(*hits)
        if self.per == "layer" or self.rule.granularity in ("layer", "unit"):
            return Parts.of_layers(view.names)
        if self.per == "model":
            return Parts.of_model(len(view.names))
        if self.groups is None:
            groups = view.optimizer.param_groups
            return Parts.of_groups([str(g.get("name", f"group{j}")) for j, g in enumerate(groups)], view.group_of, view.device)
        return self._named_groups(view, self.groups)

    @staticmethod
    def _named_groups(view: OptimizerView, groups: dict[str, str]) -> Parts:
        own = {title: pattern for title, pattern in groups.items() if _hits(view, pattern)}
        placed = assign(view.names, own, owner="GradientClip")
        rest = ["rest"] if -1 in placed else []
        return Parts.of_groups([*own, *rest], [j if j >= 0 else len(own) for j in placed], view.device)

    def _take_up(self, view: OptimizerView, state: dict[str, Any] | None) -> None:
        index, size, device = view.index, len(self._parts[view.index].names), view.device
        rule, statistics = self.rule.init(size, device), ClipStatistics().init(size, device)
        if state is not None:
            if state.get("rule") == repr(self.rule):
                rule = fitting("GradientClip", moved(state["rules"][str(index)], device), rule)
            saved = moved(state["statistics"][str(index)], device)
            self._states[index] = rule
            self._statistics[index] = saved if saved["updates"].shape == statistics["updates"].shape else statistics
        self._states.setdefault(index, rule)
        self._statistics.setdefault(index, statistics)
        self._pending[index] = []

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Norms -> rule -> writer."""
        due = self._cadence.due(page.step)
        index = page.view.index
        if page.empty or index not in self._parts:
            return
        parts = self._resized(page.view)
        zero = self.nonfinite == "zero" and not run.loss_scale.active
        if zero:
            run.writer.zero_nonfinite(page)
        kind = self.rule.norm_kind
        norms = page.measure(kind) if zero else page.norms(kind)
        values = parts.norms(norms, kind)
        coefficients = self._clip(run, page, parts, values)
        self._pending[index].append((values, coefficients))
        if len(self._pending[index]) >= _SETTLE_AFTER:
            self._settle()
        if not zero:
            self._guard(run, page, norms, values[0] if parts.whole else total_norm(norms, kind))
        if due:
            self._publish(run, page, coefficients)

    def _resized(self, view: OptimizerView) -> Parts:
        """Parameters that were unfrozen in mid-run belong to the clip too; per-part memory begins anew."""
        if self._parts[view.index].size != len(view.parameters):
            self._settle()
            old = self._parts[view.index]
            self._parts[view.index] = parts = self._split(view)
            self._watches[view.index] = NonFiniteWatch(view.names)
            if self.nonfinite in ("skip", "raise"):
                make_skipping_safe(view)
            if parts.names != old.names:
                self._states.pop(view.index)
                self._statistics.pop(view.index)
                self._take_up(view, None)
        return self._parts[view.index]

    def _clip(self, run: TrainingRun, page: Page, parts: Parts, values: Tensor) -> Tensor:
        """Ask the writer for what the rule says; return the coefficients of the parts."""
        index = page.view.index
        if isinstance(self.rule, AGC):
            return self._clip_units(run, page, self.rule)
        coefficients, self._states[index] = self.rule.update(values, self._states[index])
        if isinstance(self.rule, ClipValue):
            run.writer.clamp(self.rule.max_value)
        elif parts.whole:
            run.writer.scale(coefficients[0])
        else:
            each = parts.spread(coefficients).unbind()
            run.writer.scale_each([each[i] for i in page.present])
        return coefficients

    def _clip_units(self, run: TrainingRun, page: Page, rule: AGC) -> Tensor:
        view, scale = page.view, page.view.loss_scale.scale() if page.view.scaled else None
        one = torch.ones((), device=view.device)
        factors, lowest = [], [one] * len(view.parameters)
        for i, gradient in zip(page.present, page.gradients, strict=True):
            if gradient.is_sparse:
                text = f"{view.names[i]!r} has sparse gradients, whose units AGC cannot see"
                raise UnsupportedError(message("AGC", "exclude", rule.exclude, text, "Name it in exclude="))
            if i in self._excluded[view.index]:
                factors.append(one)
                continue
            weight = view.parameters[i].detach()
            factor = adaptive_coefficient(gradient, weight, rule.factor, rule.eps, 1.0 if scale is None else scale)
            factors.append(factor.to(gradient.dtype))
            lowest[i] = factor.amin()
        run.writer.scale_each(factors)
        return torch.stack(lowest)

    # -- NaN and inf --------------------------------------------------------------------------------------------

    def _guard(self, run: TrainingRun, page: Page, norms: Tensor, total: Tensor) -> None:
        """Do as ``nonfinite=`` says."""
        found = ~torch.isfinite(total)
        waits = page.view.folds or run.loss_scale.active
        if self.nonfinite == "raise" and not waits:
            if bool(found):
                watch = NonFiniteWatch(page.view.names)
                watch.note(page.attempt, norms, page.loss_finite)
                vector, attempts = watch.report()
                self._end(page.step, watch.read(vector.tolist(), attempts))
            return
        self._watches[page.view.index].note(page.attempt, norms, page.loss_finite)
        if self.nonfinite != "warn" or run.loss_scale.active:
            run.writer.skip(found)

    def _end(self, step: int, found: NonFinite | None) -> None:
        raise NonFiniteError(
            f"GradientClip(nonfinite='raise'): step {step}: {found} The weights are those of the last finite update. "
            "Lower the learning rate, look at the named layers, or use nonfinite='skip'."
        )

    def _report(self, run: TrainingRun, view: OptimizerView, step: int) -> None:
        watch = self._watches[view.index]
        vector, attempts = watch.report()
        if not attempts:
            return
        names = [f"clip{view.index}.{i}" for i in range(len(vector))]
        run.publisher.put_many(step, names, vector, silent=True)

        def told(values: dict[str, float]) -> None:
            found = watch.read([values[name] for name in names], attempts)
            if found is not None:
                self._tell(run, step, found)

        run.publisher.listen(step, told)

    def _tell(self, run: TrainingRun, step: int, found: NonFinite) -> None:
        if run.loss_scale.active and found.loss_finite is not False:
            return  # the loss scale was too large: the scaler has skipped it and lowers the scale
        if self.nonfinite == "raise":
            self._end(step, found)
        if not self._warned or self.nonfinite == "warn":
            self._warned = True
            done = "These updates went through." if self.nonfinite == "warn" else "These updates were skipped."
            warn("GradientClip", f"step {step}: {found} {done}")

    # -- statistics ---------------------------------------------------------------------------------------------

    def _publish(self, run: TrainingRun, page: Page, coefficients: Tensor) -> None:
        self._settle()
        suffix = _suffix(run, page.view)
        fraction = ClipStatistics().clipped_fraction(self._statistics[page.view.index])
        values = {f"grad/clip_coefficient{suffix}": coefficients.min(), f"grad/clipped_fraction{suffix}": fraction}
        run.publisher.put(page.step, values)
        if page.view.index in self._watches:
            self._report(run, page.view, page.step)

    def _settle(self) -> None:
        """Take the updates since the last time into the statistics, all at once."""
        for index, pending in self._pending.items():
            if not pending:
                continue
            norms, coefficients = (torch.stack(column) for column in zip(*pending, strict=True))
            statistics = self._statistics[index]
            self._statistics[index] = ClipStatistics().update(norms, coefficients, statistics)
            pending.clear()

    def finished(self, run: TrainingRun) -> None:
        """Say whether the threshold does anything."""
        for view in run.views:
            if view.index in self._watches:
                self._report(run, view, run.step)
        suggestion = self.suggested_threshold
        told = f" A threshold of {suggestion:.3g} would clip one in ten." if isinstance(suggestion, float) else ""
        mean = f", to {self.mean_coefficient:.2f} of their norm on average" if self.clipped_fraction else ""
        rank_zero_info(f"GradientClip({self.rule}): clipped {self.clipped_fraction:.1%} of the updates{mean}.{told}")

    # -- state --------------------------------------------------------------------------------------------------

    def configuration(self) -> dict[str, Any]:
        """The arguments, as text."""
        return {"rule": repr(self.rule), "per": self.per, "nonfinite": self.nonfinite}

    def trick_state(self) -> dict[str, Any]:
        """The rule's state and the statistics, per optimizer, on the CPU."""
        self._settle()
        cpu = torch.device("cpu")
        return {
            "rule": repr(self.rule),
            "rules": {str(i): moved(s, cpu) for i, s in self._states.items()},
            "statistics": {str(i): moved(s, cpu) for i, s in self._statistics.items()},
        }


def _hits(view: OptimizerView, pattern: str) -> bool:
    try:
        return bool(matching(view.names, pattern, owner="GradientClip", argument="groups"))
    except TrickError:
        return False


def _as_rule(rule: object) -> ClipRule:
    remedy = "Use e.g. 1.0, or GradientMonitor to only watch"
    if isinstance(rule, ClipRule):
        return rule
    if isinstance(rule, type) and issubclass(rule, ClipRule):
        text = f"{rule.__name__} is a class"
        raise TypeError(message("GradientClip", "rule", rule, text, f"Pass an instance, e.g. {rule.__name__}(...)"))
    if isinstance(rule, bool) or not isinstance(rule, (int, float)):
        raise TypeError(message("GradientClip", "rule", rule, "rule must be a number or a clip rule", remedy))
    try:
        return ClipNorm(float(rule))
    except ValueError:
        rule_text = "max_norm must be > 0 and finite"
        raise ValueError(message("GradientClip", "rule", rule, rule_text, remedy)) from None
