"""GradientClip: Lightning's hooks on one side, the pure files of this package on the other."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, final

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_tricks.errors import ConflictError, NonFiniteError, message
from lightning_tricks.gradients import clip_statistics, nonfinite_policy
from lightning_tricks.gradients.clipper import Clipper
from lightning_tricks.gradients.keys import CLIP
from lightning_tricks.gradients.nonfinite import NonFinite, NonFiniteWatch
from lightning_tricks.gradients.parts import claimed
from lightning_tricks.gradients.rules import ClipRule, as_rule
from lightning_tricks.gradients.specs import ClipSpec
from lightning_tricks.gradients.steps import key_ending, warn_of_unannounced
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.namespaces import defined_by_lightning
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.modules.replaced import PutBack, replaced
from lightning_tricks.numerics import form, host
from lightning_tricks.numerics.norms import total_norm
from lightning_tricks.optimizer_step.gradient_writer import make_skipping_safe
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.publishing.publish import Cadence

_STATE = form.dict_of(form.anything)  # (the rule knows more: ``numerics.state.fitting``)
_CLIPPER = form.record(
    {"rule": form.text, "parts": form.list_of(form.text), "rule_state": _STATE, "statistics": _STATE}, more=True
)


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
        The rule's, and the statistics. After a resume with another rule, that rule starts from scratch, with a warning.

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

    log_keys = CLIP
    identity = ("groups",)
    state_form = staticmethod(form.dict_of(_CLIPPER))
    in_dry_run = True
    also_called: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("max_norm", "clip_val", "gradient_clip_val", "max_grad_norm", "clip_norm", "norm"), "rule={}"),
        **dict.fromkeys(("max_value", "clip_value"), "rule=ClipValue({})"),
        **dict.fromkeys(("gradient_clip_algorithm", "algorithm"), "rule=1.0 for norms or rule=ClipValue(1.0)"),
        "norm_type": "rule=ClipNorm(1.0, norm_type={})",
    }
    _put_back: tuple[PutBack, ...] = ()

    def __init__(
        self,
        rule: float | ClipRule = 1.0,
        per: Literal["model", "group", "layer"] = "model",
        nonfinite: Literal["skip", "zero", "warn", "raise"] = "skip",
        groups: dict[str, str] | None = None,
        conflict: Literal["error", "replace"] = "error",
    ) -> None:
        spec = ClipSpec(as_rule(rule), per, nonfinite, groups, conflict)
        self.rule, self.per, self.nonfinite = spec.rule, spec.per, spec.nonfinite
        self.groups, self.conflict = spec.groups, spec.conflict
        self._reset()

    def _reset(self) -> None:
        self._clippers: dict[int, Clipper] = {}
        self._warned = False

    # -- what was measured --------------------------------------------------------------------------------------------

    @property
    def clipped_fraction(self) -> float:
        """Share of updates whose gradient was clipped since the start of training; 0.0 before the first."""
        return clip_statistics.clipped_fraction(self._totals())

    @property
    def mean_coefficient(self) -> float:
        """Mean coefficient over the clipped updates; 1.0 when none was clipped."""
        return clip_statistics.mean_coefficient(self._totals())

    @property
    def suggested_threshold(self) -> float | dict[str, float] | None:
        """The 90th percentile of the finite norms: as a threshold it clips one update in ten.

        A number for one model and optimizer, else a dict by part; None before the first update, and for AGC, whose
        threshold is a ratio.
        """
        found = {index: clipper.percentiles(90.0) for index, clipper in self._clippers.items()}
        return clip_statistics.suggested_threshold(found)

    def _totals(self) -> dict[str, float]:
        names, clippers = ("updates", "clipped", "coefficients"), self._clippers.values()
        return {name: sum((clipper.total(name) for clipper in clippers), 0.0) for name in names}

    # -- the run ------------------------------------------------------------------------------------------------------

    def _configure(self, run: TrainingRun) -> None:
        """Refuse a second clipper."""
        trainer = run.trainer
        # (a report of NaN says whether the loss was finite, which tells a bad batch from an overflow in the backward
        # pass)
        run.attempts.keeps_losses = True
        if trainer.gradient_clip_val:
            self._put_back = _take_over(trainer, self.rule, self.conflict)
        if not defined_by_lightning(trainer.lightning_module, "configure_gradient_clipping"):
            name = type(trainer.lightning_module).__name__
            warn("GradientClip", f"{name}.configure_gradient_clipping is overridden and runs after it. Remove one.")

    def _cleanup(self, run: TrainingRun) -> None:
        """Give the Trainer its own threshold back."""
        put_back, self._put_back = self._put_back, ()
        for undo in put_back:
            undo()

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Resolve names and take up the state."""
        # Without logging, NaN and inf are still reported now and then.
        self._cadence = Cadence(run.trainer.log_every_n_steps or 50, run.step)
        if self.nonfinite == "zero" and run.loss_scale.active:
            warn("GradientClip", "nonfinite='zero' does nothing under a GradScaler, which skips such steps itself.")
        known, self._clippers = self._clippers, {}
        for view in claimed(run.views, self.groups, self.per):
            _refuse_two(self, run, view)
            if self.nonfinite in ("skip", "raise") or run.loss_scale.active:
                make_skipping_safe(view)
            clipper = self._clippers[view.index] = Clipper(self.rule, self.per, self.groups, view)
            if state is not None:
                clipper.load(state[str(view.index)], view.device)
            elif view.index in known:  # the same Trainer fits again
                clipper.load(known[view.index].state(), view.device)

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Clip: norms of the gradients -> coefficients of the rule -> writer."""
        due = self._cadence.due(page.step)
        clipper = self._clippers.get(page.view.index)
        if page.empty or clipper is None:
            return
        if not clipper.fits(page.view):  # layers were unfrozen in mid-run: they are clipped too
            self._report(run, clipper, page.step)  # under the old names
            clipper = self._clippers[page.view.index] = clipper.renewed(page.view)
            if self.nonfinite in ("skip", "raise"):
                make_skipping_safe(page.view)
        zero = nonfinite_policy.zeroes(self.nonfinite, scaled=run.loss_scale.active)
        if zero:  # before the norms are read: the rule has to see what the optimizer gets
            run.writer.zero_nonfinite(page)
        kind = self.rule.norm_kind
        # (measured again: the logbook may hold norms from before the elements were zeroed)
        norms = page.measure(kind) if zero else page.norms(kind)
        total = total_norm(norms, kind) if zero else page.total(kind)
        coefficients = clipper.clip(page, norms, total, run.writer)
        if not zero:
            self._heed_nonfinite(run, page, clipper, norms, total)
        if due and run.trainer.log_every_n_steps:
            ending, fraction = key_ending(run, page.view), clipper.clipped_fraction()
            run.publisher.put(page.step, {f"grad/clip_coefficient{ending}": coefficients.min()})
            run.publisher.put(page.step, {f"grad/clipped_fraction{ending}": fraction})
        if due:  # also where nothing is logged: NaN and inf must be reported
            self._report(run, clipper, page.step)

    def _updated(self, view: OptimizerView, page: Page | None) -> None:
        """Warn of a step that Lightning did not announce: its gradients were not clipped."""
        if page is None and view.index in self._clippers:
            warn_of_unannounced(self.run, "GradientClip")

    # -- NaN and inf --------------------------------------------------------------------------------------------------

    def _heed_nonfinite(self, run: TrainingRun, page: Page, clipper: Clipper, norms: Tensor, total: Tensor) -> None:
        """Do as ``nonfinite=`` says."""
        known, scaled = host.value_on_host(total), run.loss_scale.active
        if known is not None and math.isfinite(known) and not scaled:
            clipper.watch.note_finite()
            return
        at_once = nonfinite_policy.raises_at_once(
            self.nonfinite, scaled=scaled, on_host=known is not None, folds=page.view.folds
        )
        if at_once:
            # The documented host read of ``nonfinite="raise"``: the run has to end before the step that would spread
            # the NaN.
            if not math.isfinite(float(total) if known is None else known):
                found = NonFiniteWatch(page.view.names).at(page.attempt, norms, page.losses)
                raise NonFiniteError(nonfinite_policy.error_text(page.step, found))
            return
        clipper.watch.note(page.attempt, norms, page.losses)
        if nonfinite_policy.skips(self.nonfinite, scaled=scaled):
            run.writer.skip_unless_finite(total)

    def _report(self, run: TrainingRun, clipper: Clipper, step: int) -> None:
        """Send to the host what was NaN or inf in the attempts since the last report."""
        clipper.watch.send(run.publisher, step, lambda found: self._on_nonfinite(run, step, found))

    def _on_nonfinite(self, run: TrainingRun, step: int, found: NonFinite) -> None:
        scaled = run.loss_scale.active
        if nonfinite_policy.is_ordinary(found, scaled=scaled):
            return
        if self.nonfinite == "raise":
            raise NonFiniteError(nonfinite_policy.error_text(step, found))
        if not self._warned or self.nonfinite == "warn":
            self._warned = True
            warn("GradientClip", nonfinite_policy.warning_text(self.nonfinite, step, found, scaled=scaled))

    def _finished(self, run: TrainingRun) -> None:
        for clipper in self._clippers.values():
            self._report(run, clipper, run.step)
        found = self.clipped_fraction, self.mean_coefficient, self.suggested_threshold
        rank_zero_info(clip_statistics.summary(self.rule, *found))

    # -- state --------------------------------------------------------------------------------------------------------

    def _trick_state(self) -> dict[str, Any]:
        return {str(index): clipper.state() for index, clipper in self._clippers.items()}


def _take_over(trainer: Any, rule: ClipRule, conflict: str) -> tuple[PutBack, ...]:
    """Take the Trainer's own threshold away while the fit lasts, or refuse to; return what puts it back."""
    value = trainer.gradient_clip_val
    if conflict == "error":
        text = "Trainer(gradient_clip_val=) clips too"
        remedy = "Remove one of the two, or use conflict='replace'"
        raise ConflictError(message("GradientClip", "gradient_clip_val", value, text, remedy))
    rank_zero_info(f"GradientClip({rule}) clips in place of Trainer(gradient_clip_val={value}) in this fit.")
    return tuple(replaced(trainer, name, None) for name in ("gradient_clip_val", "gradient_clip_algorithm"))


def _refuse_two(clip: GradientClip, run: TrainingRun, view: OptimizerView) -> None:
    """Refuse an optimizer that another ``GradientClip`` of the run clips already."""
    for trick in run.tricks:
        if isinstance(trick, GradientClip) and trick is not clip and view.index in trick._clippers:
            text = f"optimizer {view.index} has another GradientClip(rule={trick.rule!r})"
            raise ConflictError(message("GradientClip", "rule", clip.rule, text, "Remove one, or use groups="))
