"""GradientMonitor: Lightning's hooks on one side, the pure files of this package on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, final

from torch import Tensor

from lightning_tricks.errors import TrickError
from lightning_tricks.gradients.callbacks.first_micro_batch import FirstMicroBatch, check_that_noise_can_be_measured
from lightning_tricks.gradients.callbacks.gradient_clip import GradientClip
from lightning_tricks.gradients.figures import draw_layers
from lightning_tricks.gradients.keys import MONITOR
from lightning_tricks.gradients.layer_curves import LayerCurves
from lightning_tricks.gradients.noise_scale import NoiseMeter
from lightning_tricks.gradients.nonfinite import NonFinite, NonFiniteWatch
from lightning_tricks.gradients.parts import Parts, named_parts
from lightning_tricks.gradients.samples import histogram_samples, moves_and_sizes, update_ratio, weight_samples
from lightning_tricks.gradients.specs import MonitorSpec
from lightning_tricks.gradients.steps import key_ending, warn_of_unannounced
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form
from lightning_tricks.numerics.arguments import holds_arguments
from lightning_tricks.numerics.norms import total_norm
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.publishing.publish import Cadence
from lightning_tricks.publishing.recipients import draws_histograms
from lightning_tricks.publishing.worst_series import STATE_FORM as WORST_FORM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LOG10 = 3  # optimizers: with more, a second curve of each norm would be too much of the same


@final
@holds_arguments(MonitorSpec)
class GradientMonitor(Trick):
    """Measure gradient norms at every update and log them, without waiting for the device.

    ``norm = (sum_i |g_i|^p)^(1/p)`` over the parameters of the optimizer that steps, of the true gradients: unscaled
    (also under 16-mixed with a fused optimizer), accumulated, before any clipping, of the whole model when it is
    sharded.

    Args:
        every_n_steps: log every n-th step of Lightning's loggers; None for the Trainer's ``log_every_n_steps``.
        per_layer: log the norm of single parameters too. ``"top"``: of the five with the largest norms (shared among
            the optimizers, if there are several). The first logged step chooses; later a parameter gives its place up
            only to one whose running mean is more than twice as large, and at most seven ever get a curve, so that
            curves keep their names. True: of every parameter. False: of none, and no heat map.
        groups: name -> regular expression on parameter names; the norm of each group is logged.
        norm_type: p > 0, or inf.
        update_ratio: log ``||w_new - w|| / ||w||`` of each parameter, or unless ``per_layer=True`` of those with the
            largest norms; from at most 65,536 elements of each; NaN for one that is all zero. About 1e-3 is usual; it
            follows the learning rate, so watch its change, not its value.
        noise_scale: log the gradient noise scale (McCandlish et al. 2018), the batch size that still pays. Needs
            gradient accumulation, where it costs one more read of the gradients at logged steps.
        histograms: send a sample of each gradient (at most 16,384 elements) to loggers that draw histograms.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, a group matches no parameter, groups overlap, or ``noise_scale`` has no accumulation.

    Logs:
        - ``grad/norm``, ``grad/norm_log10``: at logged steps. The latter because TensorBoard leaves out outliers; it is
          left out itself with more than three optimizers.
        - ``grad/norm/<parameter>``, ``grad/group/<name>``, ``grad/update_ratio/<parameter>``: at logged steps.
        - ``grad/nonfinite``: attempts with a NaN or inf gradient since the last logged step.
        - ``grad/noise_scale``: in samples. ``grad/histogram/<parameter>``: samples of gradients.
        - ``grad/layers``: at the end a figure, the norm of every parameter over time (also ``plot()``).
        - with several optimizers the first, second, fifth and last scalars end in ``/optimizer<index>``.
        - ``grad/norm`` is in ``trainer.callback_metrics`` too, for EarlyStopping and ModelCheckpoint.

    Changes:
        Nothing: the weights are bit-identical to those of a run without it.

    State:
        The averages of the noise scale, and which parameters have curves. A resume with other arguments goes on with
        the new ones.

    Cost:
        One read of the gradients per update, shared with GradientClip; no host read but one copy at logged steps.
        No gradient-sized memory. Sharded models: one all-reduce of one number per parameter.

    Example:
        >>> from lightning_tricks import GradientMonitor
        >>> GradientMonitor(every_n_steps=10, groups={"head": "^head"}).every_n_steps
        10

    Reference: McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162 (noise scale).
    """

    log_keys = MONITOR
    observer = True
    identity = ("groups",)
    # (what the averages hold is checked by ``numerics.state.fitting``, which knows the rule)
    state_form = staticmethod(
        form.record(
            {"noise": form.none_or(form.dict_of(form.anything))},
            more=True,
            optional={"layers": form.dict_of(WORST_FORM)},
        )
    )

    def __init__(
        self,
        every_n_steps: int | None = None,
        per_layer: bool | Literal["top"] = "top",
        groups: dict[str, str] | None = None,
        norm_type: float = 2.0,
        update_ratio: bool = False,
        noise_scale: bool = False,
        histograms: bool = False,
    ) -> None:
        self.spec = MonitorSpec(every_n_steps, per_layer, groups, norm_type, update_ratio, noise_scale, histograms)
        self._reset()

    def _reset(self) -> None:
        self._nonfinite: dict[str, int] = {}
        self._warned = False
        self._before: dict[int, list[Tensor]] = {}  # samples of the weights, until the step that is under way is over
        self._noise = NoiseMeter()
        self._layers = LayerCurves(self.spec.per_layer, self.guard)

    def _make_parts(self) -> tuple[Stages, ...]:
        """What the noise scale needs in each micro-batch."""
        if not self.spec.noise_scale:
            return ()
        # (functions, since cadence and run are there from the start of a fit only)
        return (FirstMicroBatch(self._noise.window, lambda step: self._cadence.due(step), lambda: self.live_run),)

    @property
    def nonfinite_layers(self) -> dict[str, int]:
        """Parameters whose gradient was NaN or inf -> in how many attempts, up to the last logged step."""
        return dict(self._nonfinite)

    @property
    def suggested_batch_size(self) -> int | None:
        """The noise scale, rounded to samples: a larger batch saves few steps. None before it was measured."""
        return self._noise.batch_size

    def plot(self) -> Figure:
        """Return a heat map of the norm of each parameter over the logged steps; of the first optimizer.

        Raises:
            TrickError: nothing was measured by parameter.
            ImportError: matplotlib is missing.
        """
        history = self._layers.history
        if not history.columns:
            raise TrickError(
                "GradientMonitor.plot(): no norm of a parameter was logged yet. Fit, with per_layer='top' or True."
            )
        steps, norms = zip(*history.columns, strict=True)
        return draw_layers(history.names, steps, norms)

    def _configure(self, run: TrainingRun) -> None:
        """Check that what is asked for can be had in this run."""
        # (a report of NaN tells whether the loss was finite, or the backward pass is to blame)
        run.attempts.keeps_losses = True
        if self.spec.noise_scale:
            check_that_noise_can_be_measured(run.trainer)

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Resolve names, once."""
        trainer = run.trainer
        n = trainer.log_every_n_steps if self.spec.every_n_steps is None else self.spec.every_n_steps
        self._cadence = Cadence(n, run.step)
        if self.spec.histograms and not any(draws_histograms(logger) for logger in trainer.loggers):
            warn("GradientMonitor", "histograms=True, but no logger draws histograms. Add a TensorBoardLogger.")
        self._resolve(run, strict=True)  # (later, a pattern may match nothing: layers come and go)
        self._layers.start(len(run.views), (state or {}).get("layers"))
        if self.spec.noise_scale and run.views:
            self._noise.start((state or {}).get("noise"), run.views[0].device)

    def _resolve(self, run: TrainingRun, *, strict: bool) -> None:
        self._watches = [NonFiniteWatch(view.names) for view in run.views]
        self._parts_of: dict[int, Parts] = named_parts(
            run.views, self.spec.groups, owner="GradientMonitor", strict=strict
        )

    def _reconfigured(self, changed: list[str]) -> None:
        """The checkpoint was written with other arguments; a default that has changed is not one of them."""
        own = [change for change in changed if change != "per_layer: True -> 'top'"]  # (True was the default)
        if own:
            super()._reconfigured(own)

    def _trick_state(self) -> dict[str, Any]:
        """The averages of the noise scale, and which parameters have curves."""
        return {"noise": self._noise.state(), "layers": self._layers.state()}

    # -- an attempt ---------------------------------------------------------------------------------------------------

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Measure; publish at logged steps."""
        due = self._cadence.due(page.step)
        if page.empty:  # training_step returned None
            return
        norms = page.norms(self.spec.norm_type)
        if self._watches[page.view.index].names != page.view.names:  # layers were unfrozen in mid-run
            for view in run.views:  # under the old names, which the counts so far belong to
                self._report(run, view, page.step)
            self._resolve(run, strict=False)
        watch = self._watches[page.view.index]
        if page.known_finite(self.spec.norm_type):
            watch.note_finite()
        else:
            watch.note(page.attempt, norms, page.losses)
        if due:
            self._publish_norms(run, page, norms)
            self._publish_extras(run, page)

    def _publish_norms(self, run: TrainingRun, page: Page, norms: Tensor) -> None:
        view, put, step, ending = page.view, run.publisher, page.step, key_ending(run, page.view)
        total = page.total(self.spec.norm_type)
        put.put(step, {f"grad/norm{ending}": total})
        if len(run.views) <= _MOST_LOG10:
            put.put(step, {f"grad/norm_log10{ending}": total.log10()})
        # logger=False: only for EarlyStopping and ModelCheckpoint, since the publisher gives it to the loggers
        run.trainer.lightning_module.log(
            f"grad/norm{ending}", total, logger=False, on_step=True, on_epoch=False, batch_size=1
        )
        if self.spec.per_layer or self.spec.update_ratio:
            self._layers.put_norms(put, view, step, norms)
        if view.index in self._parts_of:
            names_of_groups, values = self._parts_of[view.index].named_norms(norms, self.spec.norm_type)
            put.put_many(step, [f"grad/group/{name}" for name in names_of_groups], values)
        self._report(run, view, step)

    def _publish_extras(self, run: TrainingRun, page: Page) -> None:
        view = page.view
        if self.spec.update_ratio:
            self._before[view.index] = weight_samples(view.parameters)
        if self.spec.histograms and any(draws_histograms(logger) for logger in run.trainer.loggers):
            for name, sample in histogram_samples(page):
                run.publisher.put_histogram(page.step, f"grad/histogram/{name}", sample)
        if self._noise.measures:
            norm = total_norm(page.norms(2.0))
            if not page.corrected:  # Lightning divides every loss by the full window, also in a shorter last one
                norm = norm * run.attempts.mean_factor(self._noise.window.batches)
            value = self._noise.measure(norm, run.trainer.world_size, synced=view.sharded)
            if value is not None:
                run.publisher.put(page.step, {"grad/noise_scale": value})

    def _report(self, run: TrainingRun, view: OptimizerView, step: int) -> None:
        """Send to the host what was NaN or inf in the attempts since the last report."""
        on_found = self.guard(lambda found: self._on_nonfinite(run, found))
        count = self._watches[view.index].send(run.publisher, step, on_found)
        if count is not None:
            run.publisher.put(step, {f"grad/nonfinite{key_ending(run, view)}": count})

    def _on_nonfinite(self, run: TrainingRun, found: NonFinite) -> None:
        for name, times in found.layers.items():
            self._nonfinite[name] = self._nonfinite.get(name, 0) + times
        spoken_for = any(isinstance(trick, GradientClip) for trick in run.tricks) or run.loss_scale.active
        if not self._warned and not spoken_for:  # GradientClip warns itself; a GradScaler skips such steps
            self._warned = True
            warn("GradientMonitor", f"{found} GradientClip(nonfinite='skip') leaves such updates out.")

    def _updated(self, view: OptimizerView, page: Page | None) -> None:
        """Measure by how much the weights have moved."""
        if page is None:
            warn_of_unannounced(self.run, "GradientMonitor")
        before = self._before.pop(view.index, None)
        if before is None or page is None:
            return
        # (collectives where parameters are sharded; logged steps are the same on all ranks)
        moves, sizes = (view.shards.norms(local, 2.0) for local in moves_and_sizes(before, view.parameters))
        self._layers.put_ratios(self.run.publisher, view, page.step, update_ratio(moves, sizes))

    def _finished(self, run: TrainingRun) -> None:
        """Tell what came after the last logged step; draw the norms of all layers over time."""
        for view in run.views:
            self._report(run, view, run.step)
        run.publisher.flush()
        columns = self._layers.history.columns
        if columns:
            run.publisher.draw(columns[-1][0], "grad/layers", self.plot)
