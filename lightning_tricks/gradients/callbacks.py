"""GradientMonitor and GradientClip: Lightning's hooks on one side, the pure files of this room on the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.data import extract_batch_size
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
from lightning_tricks.gradients.clipper import Clipper
from lightning_tricks.gradients.figures import draw_layers
from lightning_tricks.gradients.noise_scale import NoiseScale, NoiseWindow
from lightning_tricks.gradients.nonfinite import NonFinite, NonFiniteWatch
from lightning_tricks.gradients.parts import Parts, place
from lightning_tricks.gradients.rules import ClipRule, as_rule
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick, defined_by_lightning
from lightning_tricks.modules.replaced import PutBack, replaced
from lightning_tricks.modules.selection import check_patterns
from lightning_tricks.numerics import form, host
from lightning_tricks.numerics.norms import bounded_sample, tensor_norms, total_norm
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.state import State, fitting, moved
from lightning_tricks.optimizer_step.gradient_writer import make_skipping_safe
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.publishing.publish import Cadence, draws_histograms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HISTOGRAM_SAMPLE = 16384
_STATE = form.named(form.anything)  # (the rule knows more: ``measure.state.fitting``)
_CLIPPER = form.record(
    {"rule": form.text, "parts": form.many(form.text), "rule_state": _STATE, "statistics": _STATE}, more=True
)
_MOST_COLUMNS = 256  # logged steps in the picture of all layers; beyond, every second one is dropped


def _say_if_unseen(run: TrainingRun, owner: str, page: Page | None) -> None:
    """A step is over: say once per run where Lightning did not announce it, so that no trick saw its gradients."""
    if page is None and run.first_to_say("unseen step"):
        warn(
            owner,
            "an optimizer was stepped without Lightning, e.g. through self.optimizers(use_pl_optimizer=False): the "
            "gradients of such steps are neither measured nor clipped. Step what self.optimizers() returns.",
        )


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
        update_ratio: log ``||w_new - w|| / ||w||`` of each parameter, from at most 65,536 elements of each; NaN for one
            that is all zero. About 1e-3 is usual; it follows the learning rate, so watch its change, not its value.
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
        - ``grad/noise_scale``: in samples. ``grad/histogram/<parameter>``: samples of gradients.
        - ``grad/layers``: at the end a figure, the norm of each parameter over time (also ``plot()``).
        - with several optimizers the first, second, fifth and last scalars end in ``/optimizer<index>``.
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

    observer = True
    identity = ("groups",)
    state_form = staticmethod(form.record({"noise": form.maybe(_STATE)}, more=True))

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
        if not (isinstance(norm_type, float) and math.isinf(norm_type) and norm_type > 0):
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
        self._window = NoiseWindow()
        self._columns: list[tuple[int, list[float]]] = []
        self._layers: list[str] = []
        self._every, self._skipped = 1, 0

    @property
    def nonfinite_layers(self) -> dict[str, int]:
        """Parameters whose gradient was NaN or inf -> in how many attempts, up to the last logged step."""
        return dict(self._nonfinite)

    @property
    def suggested_batch_size(self) -> int | None:
        """The noise scale, rounded to samples: a larger batch saves few steps. None before it was measured."""
        value = float("nan") if self._noise is None else float(NoiseScale().value(self._noise))
        return max(1, round(value)) if 0 < value < float("inf") else None

    def plot(self) -> Figure:
        """Return a heat map of the norm of each parameter over the logged steps; of the first optimizer.

        Raises:
            TrickError: nothing was measured by parameter.
            ImportError: matplotlib is missing.
        """
        if not self._columns:
            raise TrickError("GradientMonitor.plot(): no norm of a parameter was logged yet. Fit, with per_layer=True.")
        steps, norms = zip(*self._columns, strict=True)
        return draw_layers(self._layers, steps, norms)

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
            steering = ("get_accumulate_grad_batches", "updates_in_epoch")
            steered = any(hasattr(callback, name) for callback in trainer.callbacks for name in steering)
            if trainer.accumulate_grad_batches == 1 and not steered:
                text = "the noise scale needs gradient accumulation, which gives a small and a large batch"
                remedy = "Use GradientAccumulation(2) or more"
                raise TrickError(message("GradientMonitor", "noise_scale", True, text, remedy))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Resolve names, once."""
        trainer = run.trainer
        n = trainer.log_every_n_steps if self.every_n_steps is None else self.every_n_steps
        self._cadence = Cadence(n, run.step)
        if self.histograms and not any(draws_histograms(logger) for logger in trainer.loggers):
            warn("GradientMonitor", "histograms=True, but no logger draws histograms. Add a TensorBoardLogger.")
        self._resolve(run, strict=True)
        if self.noise_scale and run.views:
            device = run.views[0].device
            fresh = NoiseScale().init(device)
            saved = (state or {}).get("noise") or self._noise
            self._noise = fresh if saved is None else fitting("GradientMonitor", moved(saved, device), fresh)

    def _resolve(self, run: TrainingRun, *, strict: bool) -> None:
        self._watches = [NonFiniteWatch(view.names) for view in run.views]
        self._groups: dict[int, Parts] = {}
        if self.groups is not None:
            placed = place(run.views, self.groups, owner="GradientMonitor", strict=strict)
            hit = [view for view in run.views if any(j >= 0 for j in placed[view.index])]
            self._groups = {v.index: Parts.of_named(self.groups, placed[v.index], v.device, rest=True) for v in hit}

    def trick_state(self) -> dict[str, Any]:
        """The averages of the noise scale."""
        return {"noise": None if self._noise is None else moved(self._noise, torch.device("cpu"))}

    @torch.no_grad()
    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Measure; publish at logged steps."""
        due = self._cadence.due(page.step)
        if page.empty:
            return
        norms = page.norms(self.norm_type)
        if self._watches[page.view.index].names != page.view.names:  # layers were unfrozen in mid-run
            for view in run.views:
                self._report(run, view, page.step)
            self._resolve(run, strict=False)
        self._watches[page.view.index].note(page.attempt, norms, page.losses)
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
            put.put_many(page.step, view.keys("grad/norm/"), norms)
            if view.index == 0:
                names, step = view.names, page.step
                put.put_private(step, norms, self.guard(lambda numbers: self._remember(names, step, numbers)))
        if view.index in self._groups:
            parts = self._groups[view.index]
            # the last part takes what is in no group
            keys = [f"grad/group/{name}" for name in parts.names[:-1]]
            put.put_many(page.step, keys, parts.norms(norms, self.norm_type)[:-1])
        self._report(run, view, page.step)

    def _publish_extras(self, run: TrainingRun, page: Page) -> None:
        view = page.view
        if self.update_ratio:
            self._before[view.index] = [bounded_sample(local(p)).clone() for p in view.parameters]
        if self.histograms and any(draws_histograms(logger) for logger in run.trainer.loggers):
            to_true = page.to_true()
            for i, values in zip(page.present, page.values(), strict=True):
                sample = bounded_sample(values, _HISTOGRAM_SAMPLE)
                sample = torch.view_as_real(sample.resolve_conj()).reshape(-1) if sample.is_complex() else sample
                sample = sample.float()
                sample = sample if to_true is None else sample * to_true
                run.publisher.put_histogram(page.step, f"grad/histogram/{view.names[i]}", sample)
        if self._noise is not None:
            self._noise = self._measure_noise(run, page, self._noise)

    def _remember(self, names: list[str], step: int, norms: list[float]) -> None:
        if names != self._layers:  # layers were unfrozen: the picture begins anew
            self._columns, self._layers, self._every, self._skipped = [], list(names), 1, 0
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self._columns.append((step, norms))
        if len(self._columns) > _MOST_COLUMNS:
            self._columns, self._every = self._columns[::2], 2 * self._every

    def _report(self, run: TrainingRun, view: OptimizerView, step: int) -> None:
        count = self._watches[view.index].send(run.publisher, step, self.guard(lambda found: self._tell(run, found)))
        if count is not None:
            run.publisher.put(step, {f"grad/nonfinite{_suffix(run, view)}": count})

    def _tell(self, run: TrainingRun, found: NonFinite) -> None:
        for name, times in found.layers.items():
            self._nonfinite[name] = self._nonfinite.get(name, 0) + times
        spoken_for = any(isinstance(trick, GradientClip) for trick in run.tricks) or run.loss_scale.active
        if not self._warned and not spoken_for:
            self._warned = True
            warn("GradientMonitor", f"{found} GradientClip(nonfinite='skip') leaves such updates out.")

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """The weights have moved: by how much?"""
        _say_if_unseen(self.run, "GradientMonitor", page)
        before = self._before.pop(view.index, None)
        if before is None or page is None:
            return
        run = self.run
        with torch.no_grad():
            after = [bounded_sample(local(p)) for p in view.parameters]
            # (the difference of two neighbours in bfloat16 has more digits than bfloat16)
            wide = [torch.promote_types(a.dtype, torch.float32) for a in after]
            moves = tensor_norms([a.to(t) - b.to(t) for a, b, t in zip(after, before, wide, strict=True)])
            moves, sizes = view.shards.norms(moves, 2.0), view.shards.norms(tensor_norms(before), 2.0)
        run.publisher.put_many(
            page.step, view.keys("grad/update_ratio/"), torch.where(sizes > 0, moves / sizes, torch.nan)
        )

    def finished(self, run: TrainingRun) -> None:
        """Tell what came after the last logged step; draw the norms of all layers over time."""
        for view in run.views:
            self._report(run, view, run.step)
        run.publisher.flush()
        if self._columns:
            run.publisher.draw(self._columns[-1][0], "grad/layers", self.plot)

    # -- noise scale: the first micro-batch of a window against the whole window ---------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count samples."""
        if self.noise_scale and self._live is not None:
            self._window.next_size = int(extract_batch_size(batch))

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """A window begins."""
        self._window.begin()

    @torch.no_grad()
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Take the norm of the first micro-batch's gradient, in windows that will be logged."""
        run = self._live
        if self.noise_scale and run is not None:
            self._window.add()
            if self._window.batches == 1 and self._cadence.due(run.step):
                self._window.first_norm = run.views[0].norm_now() * run.mean_factor(1)

    def _measure_noise(self, run: TrainingRun, page: Page, state: State) -> State:
        norm, world = total_norm(page.norms(2.0)), run.trainer.world_size
        if not page.corrected:  # Lightning divides every loss by the full window, also in a shorter last one
            norm = norm * run.mean_factor(self._window.batches)
        pair = self._window.estimate(norm, world, synced=page.view.sharded)
        if pair is None:
            return state
        state = NoiseScale().update(*pair, state)
        run.publisher.put(page.step, {"grad/noise_scale": NoiseScale().value(state)})
        return state


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
        conflict: when the Trainer has a ``gradient_clip_val``: ``"error"`` refuses, ``"replace"`` sets it to None while
            the fit lasts. The latter is for libraries that make the Trainer themselves and set one.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range, or ``per`` contradicts the rule.
        ConflictError: at fit start, ``gradient_clip_val`` is set and ``conflict`` is ``"error"``, or another
            GradientClip has the same optimizer.
        TrickError: at fit start, a pattern matches nothing or groups overlap.
        UnsupportedError: ``AGC`` on a sharded model, or ``ClipValue`` on complex parameters.
        NonFiniteError: while training, with ``nonfinite="raise"``.

    Logs:
        - ``grad/clip_coefficient``: at logged steps, 1 for not clipped; of several parts the smallest.
        - ``grad/clipped_fraction``: share of updates clipped since the start of training (of all parts).
        - with several optimizers both end in ``/optimizer<index>``.

    Changes:
        Gradients, by one factor: in place, or folded into a fused optimizer's step. Skips updates. With
        ``conflict="replace"`` the Trainer's ``gradient_clip_val``, which is put back at the end of the fit.

    State:
        The rule's, and the statistics. A resume with another rule begins that rule anew, and says so.

    Cost:
        One read of the gradients, shared with GradientMonitor, and one write; with a fused optimizer and
        ``per="model"`` no write. ``"zero"``: one more of each. Host reads: none with a fused optimizer, with a
        GradScaler, for ``"warn"`` and ``"zero"``, or on a CPU; else one per update, since torch offers no skip on the
        device there. On a GPU with a fused optimizer, ``"raise"`` skips at once and raises at the next logged step.

    Example:
        >>> from lightning_tricks import GradientClip, ZClip
        >>> GradientClip(0.5).rule
        ClipNorm(max_norm=0.5, norm_type=2.0)
        >>> GradientClip(ZClip(z=3.0), nonfinite="raise").rule.z
        3.0

    Reference: Pascanu et al., 2013, arXiv:1211.5063; the rules name theirs.
    """

    identity = ("groups",)
    state_form = staticmethod(form.named(_CLIPPER))
    in_dry_run = True
    _put_back: tuple[PutBack, ...] = ()

    def __init__(
        self,
        rule: float | ClipRule = 1.0,
        per: Literal["model", "group", "layer"] = "model",
        nonfinite: Literal["skip", "zero", "warn", "raise"] = "skip",
        groups: dict[str, str] | None = None,
        conflict: Literal["error", "replace"] = "error",
    ) -> None:
        self.rule = as_rule(rule)
        self.per = require_choice("GradientClip", "per", per, ("model", "group", "layer"))
        self.nonfinite = require_choice("GradientClip", "nonfinite", nonfinite, ("skip", "zero", "warn", "raise"))
        self.groups = check_patterns("GradientClip", "groups", groups)
        self.conflict = require_choice("GradientClip", "conflict", conflict, ("error", "replace"))
        own = self.rule.granularity
        if own is not None and self.per not in ("model", own):
            text = f"{type(self.rule).__name__} always works per {own}"
            raise ValueError(message("GradientClip", "per", per, text, "Leave per= out"))
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._clippers: dict[int, Clipper] = {}
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
        found: dict[str, float] = {}
        for index, clipper in self._clippers.items():
            prefix = f"optimizer{index}." if len(self._clippers) > 1 else ""
            found |= {prefix + name: value for name, value in clipper.percentiles(90.0).items()}
        return found["model"] if list(found) == ["model"] else found or None

    def _ratio(self, above: str, below: str) -> float:
        sums = [sum(clipper.total(name) for clipper in self._clippers.values()) for name in (above, below)]
        return sums[0] / sums[1] if sums[1] else 0.0

    # -- the run ------------------------------------------------------------------------------------------------

    def configure(self, run: TrainingRun) -> None:
        """Refuse a second clipper."""
        trainer = run.trainer
        run.watch_loss = True
        if trainer.gradient_clip_val:
            self._settle_conflict(trainer)
        if not defined_by_lightning(trainer.lightning_module, "configure_gradient_clipping"):
            name = type(trainer.lightning_module).__name__
            warn("GradientClip", f"{name}.configure_gradient_clipping is overridden and runs after it. Remove one.")

    def _settle_conflict(self, trainer: Any) -> None:
        value = trainer.gradient_clip_val
        if self.conflict == "error":
            text = "Trainer(gradient_clip_val=) clips too"
            remedy = "Remove one of the two, or use conflict='replace'"
            raise ConflictError(message("GradientClip", "gradient_clip_val", value, text, remedy))
        self._put_back = tuple(
            replaced(trainer, name, None) for name in ("gradient_clip_val", "gradient_clip_algorithm")
        )
        rank_zero_info(f"GradientClip({self.rule}) clips in place of Trainer(gradient_clip_val={value}) in this fit.")

    def stopped(self, run: TrainingRun) -> None:
        """Give the Trainer its own threshold back."""
        put_back, self._put_back = self._put_back, ()
        for undo in put_back:
            undo()

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Resolve names and take up the state."""
        self._cadence = Cadence(run.trainer.log_every_n_steps or 50, run.step)
        if self.nonfinite == "zero" and run.loss_scale.active:
            warn("GradientClip", "nonfinite='zero' does nothing under a GradScaler, which skips such steps itself.")
        known, self._clippers = self._clippers, {}
        for view in self._claim(run):
            self._refuse_two(run, view)
            if self.nonfinite in ("skip", "raise") or run.loss_scale.active:
                make_skipping_safe(view)
            clipper = self._clippers[view.index] = Clipper(self.rule, self.per, self.groups, view)
            if state is not None:
                clipper.load(state[str(view.index)], view.device)
            elif view.index in known:  # the same Trainer fits again
                clipper.load(known[view.index].state(), view.device)

    def _claim(self, run: TrainingRun) -> list[OptimizerView]:
        """Return the optimizers that this instance is for."""
        if self.groups is None:
            return list(run.views)
        placed = place(run.views, self.groups, owner="GradientClip")
        hit = [view for view in run.views if any(j >= 0 for j in placed[view.index])]
        for view in hit:
            if self.per != "group" and -1 in placed[view.index]:
                left = view.names[placed[view.index].index(-1)]
                text = f"per={self.per!r} picks whole optimizers, but {left!r} of optimizer {view.index} is in no group"
                raise TrickError(message("GradientClip", "groups", self.groups, text, "Use per='group', or match all"))
        return hit

    def _refuse_two(self, run: TrainingRun, view: OptimizerView) -> None:
        for trick in run.tricks:
            if isinstance(trick, GradientClip) and trick is not self and view.index in trick._clippers:
                text = f"optimizer {view.index} has another GradientClip(rule={trick.rule!r})"
                raise ConflictError(message("GradientClip", "rule", self.rule, text, "Remove one, or use groups="))

    @torch.no_grad()
    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Norms -> rule -> writer."""
        due = self._cadence.due(page.step)
        clipper = self._clippers.get(page.view.index)
        if page.empty or clipper is None:
            return
        if not clipper.fits(page.view):  # layers were unfrozen in mid-run: they are clipped too
            self._report(run, clipper, page.step)
            clipper = self._clippers[page.view.index] = clipper.renewed(page.view)
            if self.nonfinite in ("skip", "raise"):
                make_skipping_safe(page.view)
        zero = self.nonfinite == "zero" and not run.loss_scale.active
        if zero:
            run.writer.zero_nonfinite(page)
        norms = page.measure(self.rule.norm_kind) if zero else page.norms(self.rule.norm_kind)
        total, coefficients = clipper.clip(page, norms, run.writer)
        if not zero:
            self._guard(run, page, clipper, norms, total)
        if due and run.trainer.log_every_n_steps:
            suffix, fraction = _suffix(run, page.view), clipper.clipped_fraction()
            run.publisher.put(page.step, {f"grad/clip_coefficient{suffix}": coefficients.min()})
            run.publisher.put(page.step, {f"grad/clipped_fraction{suffix}": fraction})
        if due:  # also where nothing is logged: what was not finite must be told
            self._report(run, clipper, page.step)

    def updated(self, view: OptimizerView, page: Page | None) -> None:
        """A step that was not announced was not clipped either."""
        if view.index in self._clippers:
            _say_if_unseen(self.run, "GradientClip", page)

    # -- NaN and inf --------------------------------------------------------------------------------------------

    def _guard(self, run: TrainingRun, page: Page, clipper: Clipper, norms: Tensor, total: Tensor) -> None:
        """Do as ``nonfinite=`` says."""
        known = host.at_hand(total)
        deferred = run.loss_scale.active or (known is None and page.view.folds)
        if self.nonfinite == "raise" and not deferred:
            if not math.isfinite(float(total) if known is None else known):
                self._end(page.step, NonFiniteWatch(page.view.names).at(page.attempt, norms, page.losses))
            return
        clipper.watch.note(page.attempt, norms, page.losses)
        if self.nonfinite != "warn" or run.loss_scale.active:
            run.writer.skip_unless_finite(total)

    def _end(self, step: int, found: NonFinite | None) -> None:
        raise NonFiniteError(
            f"GradientClip(nonfinite='raise'): step {step}: {found} The weights are those of the last finite update. "
            "Lower the learning rate, look at the named layers, or use nonfinite='skip'."
        )

    def _report(self, run: TrainingRun, clipper: Clipper, step: int) -> None:
        clipper.watch.send(run.publisher, step, lambda found: self._tell(run, step, found))

    def _tell(self, run: TrainingRun, step: int, found: NonFinite) -> None:
        if run.loss_scale.active and found.loss_finite is not False:
            return  # the loss scale was too large: the scaler has skipped it and lowers the scale
        if self.nonfinite == "raise":
            self._end(step, found)
        if not self._warned or self.nonfinite == "warn":
            self._warned = True
            through = self.nonfinite == "warn" and not run.loss_scale.active
            warn("GradientClip", f"step {step}: {found} {'They went through' if through else 'They were skipped'}.")

    def finished(self, run: TrainingRun) -> None:
        """Say whether the threshold does anything."""
        for clipper in self._clippers.values():
            self._report(run, clipper, run.step)
        suggestion = self.suggested_threshold
        told = f" A threshold of {suggestion:.3g} would clip one in ten." if isinstance(suggestion, float) else ""
        mean = f", to {self.mean_coefficient:.2f} of their norm on average" if self.clipped_fraction else ""
        rank_zero_info(f"GradientClip({self.rule}): clipped {self.clipped_fraction:.1%} of the updates{mean}.{told}")

    # -- state --------------------------------------------------------------------------------------------------

    def configuration(self) -> dict[str, Any]:
        """The arguments, as text."""
        return {"rule": repr(self.rule), "per": self.per, "nonfinite": self.nonfinite}

    def trick_state(self) -> dict[str, Any]:
        """Each optimizer's rule and statistics, on the CPU."""
        return {str(index): clipper.state() for index, clipper in self._clippers.items()}
