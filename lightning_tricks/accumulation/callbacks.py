"""GradientAccumulation: the gradient of the one big batch from several micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, final

from torch import Tensor
from torch.optim import Optimizer

from lightning_tricks.accumulation.keys import ACCUMULATION
from lightning_tricks.accumulation.lightning_loop import (
    begin_window,
    steer,
    steps_after,
    sums_of_all,
    weight_of_all,
    weight_of_rank_0,
)
from lightning_tricks.accumulation.open_window import OPEN_WINDOW, MicroBatch
from lightning_tricks.accumulation.own_step import OwnStep
from lightning_tricks.accumulation.progress import WindowProgress
from lightning_tricks.accumulation.reading import BatchReader
from lightning_tricks.accumulation.refusals import refuse_at_start, refuse_before_setup
from lightning_tricks.accumulation.spec import AccumulationSpec, current_configuration, stands_alone
from lightning_tricks.accumulation.window_gradients import WindowGradients, trained
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form, host
from lightning_tricks.numerics.arguments import holds_arguments
from lightning_tricks.numerics.host import as_scalar
from lightning_tricks.optimizer_step import gradient_writer
from lightning_tricks.optimizer_step.logbook import Page
from lightning_tricks.publishing.publish import Cadence

# where nothing has to be done for a micro-batch that is an update by itself
_WHILE_ALONE = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_train_batch_end",
    "_before_gradients_read",
)


@final
@holds_arguments(AccumulationSpec)
class GradientAccumulation(Trick):
    """Make one update of several micro-batches, with the gradient that the one big batch would have.

    Each micro-batch's loss is weighted by what its mean was taken over: ``sum_i w_i g_i / sum_i w_i``. So partial last
    windows, ragged batches, micro-batches for which ``training_step`` returns None, and processes with batches of
    different sizes are right, where Lightning divides by the full window.

    Micro-batches of weight 0 are left out, also where their mean is NaN. A window that an epoch leaves open, and
    gradients that are thrown away with ``zero_grad``, do not count for the next update.

    Args:
        batches: micro-batches per update, or ``{applied update: micro-batches from there on}``.
        target_batch_size: instead, close a window when this many samples (tokens, with ``weight="tokens"``) are in it,
            over all processes.
        weight: what a micro-batch weighs: ``"samples"`` (what a batch says itself, or what its tensors and lists agree
            on), ``"tokens"`` (labels that are not negative), ``"equal"``, or a function of the batch that returns what
            its mean loss was taken over (a number or 0-d tensor).
        on_oom: ``"split"``: when a device has no memory left, split the batch into two parts, four, ... and continue
            with the same gradient; the smaller size is kept. ``"raise"``: let the error end the run.
        lr_scaling: multiply the learning rate by the effective batch over one micro-batch of all processes
            (``"linear"``), by its root (``"sqrt"``), or not (``"none"``).
        split_fn: how to split a batch: a function of (batch, parts) that returns parts; None for the first dimension of
            all tensors. ``lightning_tricks.functional.split_sequence`` cuts sequences instead.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range or contradicts another.
        ConflictError: at fit start, ``Trainer(accumulate_grad_batches=)`` or Lightning's own scheduler of it is in use.
        UnsupportedError: at fit start, manual optimization, LBFGS, or with ``on_oom="split"`` SyncBatchNorm on several
            processes, FSDP2, or a module with its own ``backward``.
        TrickError: the samples of a batch are not known, a function of ``weight=`` returns no number >= 0, or a batch
            cannot be split.

    Logs:
        - ``accumulation/window``: micro-batches in this update.
        - ``accumulation/batch_size``: samples in this update over all processes; the sum of the weights where a
            function weighs, or where the samples of a batch are not known.
        - ``accumulation/lr_factor``: the factor on the learning rate, with ``lr_scaling``.

    Changes:
        Weights of losses, ``trainer.accumulate_grad_batches``, gradients (by one factor, together with a clip's). With
        ``on_oom="split"`` it runs the backward pass itself.

    State:
        The reference weight, the part size, the rate factor. A run that is resumed in the middle of a window
        continues with the remaining micro-batches: their exact mean makes that update.

    Cost:
        Equal full windows on one process: a few Python numbers per micro-batch. Otherwise one factor on the gradients
        per update (folded into a fused step, or into a clip). Several processes: one all-reduce of two numbers per
        update; with ``target_batch_size`` one of a number per micro-batch, with a host read of it. Weights on a device
        (``"tokens"``): one operation per gradient and micro-batch, which leaves out micro-batches of weight 0; not
        under FSDP2. ``on_oom="split"``:
        a snapshot per micro-batch, in which a forward pass that fails is undone (some 30 ms for a ResNet-50, copies of
        what is smaller than 1 MiB), a second set of gradients while a window is open, and on several processes a
        reduction of gradients that does not overlap with the backward pass.

    Example:
        >>> from lightning_tricks import GradientAccumulation
        >>> GradientAccumulation({0: 1, 1000: 4}).window.planned(8.0, 1000)
        4

    Reference: Goyal et al., 2017, arXiv:1706.02677 (linear scaling); Krizhevsky, 2014, arXiv:1404.5997 (square root).
    """

    log_keys = ACCUMULATION
    in_dry_run = True
    state_form = staticmethod(
        form.record(
            {
                "reference": form.none_or(form.positive),
                "micro_size": form.none_or(form.positive),
                "limit": form.none_or(form.positive),
                "rate_factor": form.rate,
                "open": form.none_or(OPEN_WINDOW),
            },
            optional={"rate_inside": form.none_or(form.list_of(form.list_of(form.positive)))},
            more=True,
        )
    )

    also_called: ClassVar[dict[str, str]] = {
        name: "batches={}"
        for name in ("accumulate_grad_batches", "gradient_accumulation_steps", "accumulation_steps", "scheduling")
    }

    def __init__(
        self,
        batches: int | dict[int, int] = 1,
        *,
        target_batch_size: int | None = None,
        weight: Literal["equal", "samples", "tokens"] | Callable[..., Any] = "samples",
        on_oom: Literal["raise", "split"] = "raise",
        lr_scaling: Literal["none", "linear", "sqrt"] = "none",
        split_fn: Callable[..., Any] | None = None,
    ) -> None:
        self.spec = AccumulationSpec(batches, target_batch_size, weight, on_oom, lr_scaling, split_fn)
        self.window = self.spec.window
        self._reset()

    def _reset(self) -> None:
        self._progress = WindowProgress(self.spec)
        self._effective: float | Tensor | None = None  # samples in the last update over all processes
        self._alone: float | Tensor | None = None  # of a micro-batch that is an update by itself, and needs no factor
        self._gradients = WindowGradients()
        self._reader = BatchReader(self.spec)
        self._step = OwnStep(self, self.spec, self._reader, self._progress, self._gradients)

    @property
    def effective_batch_size(self) -> int | None:
        """Samples in the last update over all processes, as the weights count them; None before the first.

        Reads one number from the device.
        """
        return None if self._effective is None else round(float(self._effective))

    @property
    def max_split_size(self) -> float | None:
        """Samples (parts of a batch, with ``split_fn``) that fitted into memory; None when no batch had to be split."""
        return self._step.splitter.limit

    # -- a run begins and ends ----------------------------------------------------------------------------------

    def _configure(self, run: TrainingRun) -> None:
        """Refuse what cannot be exact, and take over the window."""
        refuse_before_setup(self.spec, run.trainer)
        progress = self._progress

        def enlarge(factor: int) -> None:
            progress.enlarge(factor)
            _accumulate(self, run)

        run.attempts.own_mean_factor = lambda: progress.correction()
        # A rollback may ask for a longer window, to average over more samples.
        run.window.claim(enlarge)
        if progress.fixed is not None:
            steer(run.trainer, progress.fixed)

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up the state, and put the splitting around the training step."""
        trainer, state = run.trainer, state or {}
        refuse_at_start(self.spec, run)
        self._progress.start(state)
        _accumulate(self, run)
        self._step.splitter.limit = state.get("limit", self._step.splitter.limit)
        if "rate_factor" in state and not run.rate.claimed:
            run.rate.restore(state["rate_factor"], "accumulation", state.get("rate_inside"))
        self._cadence = Cadence(trainer.log_every_n_steps, run.step)
        self._gradients.drop_apart()
        self._step.install(run)

    def _cleanup(self, run: TrainingRun) -> None:
        self._step.remove(run.trainer)
        steer(run.trainer, 1)
        run.attempts.own_mean_factor = None
        self._progress.end()
        self._gradients.drop_apart()
        self._gradients.forget()
        self._gradients.count_again()

    def updates_in_epoch(self, batches: float, done: int) -> int | None:
        """Return the updates of an epoch, for the forecast; None when not known."""
        size = None
        if self._progress.by_size and self.spec.weight == "samples":
            trainer = self.run.trainer
            own = getattr(trainer.train_dataloader, "batch_size", None)
            size = self._progress.units.micro_size if own is None else own * trainer.world_size
        return self._progress.window.updates(batches, size, done)

    # -- a micro-batch ------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Give up a window that an epoch has left open (``on_train_batch_start`` returned -1): Lightning does too."""
        self._progress.end_epoch()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Weigh the micro-batch, and say whether the optimizer steps after it."""
        run, progress = self.live_run, self._progress
        if run is None:
            return
        fixed = progress.fixed
        if self._alone is not None:
            weight = self._reader.weigh(batch)
            if weight:
                self._alone = self._reader.samples(batch, weight)
                return
            _accumulate(self, run)  # (an empty batch: its loss is NaN, and left out)
        self._gradients.count_again()
        # (ExactResume may have restored the gradients of a window that was open)
        progress.resume(lambda: any(p.grad is not None for p in trained(pl_module)))
        if progress.now.over:
            progress.begin()
            self._gradients.forget()
            # (Lightning clears gradients where ``batch_idx`` is a multiple of the number of batches that it
            # accumulates)
            clears_itself = batch_idx == 0 or (fixed is not None and batch_idx % fixed == 0)
            begin_window(trainer, batch_idx, clears_itself=clears_itself)
        elif progress.now.backwards and self._gradients.thrown_away(run):
            progress.lose_gradients(under_way=False)
        weight = self._reader.weigh(batch)
        whole = weight_of_all(trainer, weight) if progress.by_size else 0.0
        samples = self._reader.samples(batch, weight)
        progress.join(MicroBatch(weight, samples, whole))
        if progress.units.reference is None:
            # (a collective, in the first micro-batch of the run: on all ranks)
            progress.take_units(weight_of_rank_0(trainer, weight), trainer.world_size)
        if progress.now.batches == 1:
            progress.plan(_applied(run))
            if self.spec.scales_rate:
                run.rate.ask(progress.rate_factor, [view.optimizer for view in run.views], "accumulation")
        if fixed is None:
            steer(trainer, steps_after(batch_idx, progress.closes(_applied(run))))
        alone = stands_alone(self.spec, progress.fixed, trainer.world_size) and progress.now.batches == 1
        if alone and weight:  # (a number: weights on a device never stand alone)
            self._alone = samples
            progress.now = progress.now.closed()
            run.dispatch.rest(self, *_WHILE_ALONE)

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Nothing is accumulated. (Lightning clears gradients after the forward pass of the first micro-batch.)"""
        if self._progress.now.backwards:
            self._progress.now = self._progress.now.cleared()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Weight the loss."""
        run, progress, batch = self.live_run, self._progress, self._progress.batch
        if run is None or batch is None:
            return
        if progress.now.backwards and self._gradients.thrown_away(run):
            progress.lose_gradients(under_way=True)
        progress.now = progress.now.after_backward(batch)
        if self._gradients.join_apart(pl_module):
            return  # the backward pass is over already
        # Lightning has divided the loss by the number of batches that it accumulates.
        factor = progress.loss_factor(batch.weight) * trainer.accumulate_grad_batches
        if isinstance(factor, Tensor) or factor == 0.0:
            self._gradients.leave_out(pl_module, factor)
        if isinstance(factor, Tensor) or factor != 1.0:
            # (a product with a tensor of another dtype would change that of the gradient)
            loss.register_hook(lambda gradient: (gradient * factor).to(gradient.dtype))  # type: ignore[no-untyped-call]

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Let gradients count again; remember which were written."""
        self._gradients.count_again()
        run = self.live_run
        if run is not None and self._progress.now.backwards:
            self._gradients.note(run)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Give the callbacks after this one the true loss, which Lightning has divided (#13243)."""
        # until lightning>2.6.6 (#13243)
        divided = trainer.accumulate_grad_batches
        if self.live_run is not None and divided != 1 and isinstance(outputs, Mapping) and "loss" in outputs:
            outputs["loss"].mul_(divided)

    # -- an update ----------------------------------------------------------------------------------------------

    def _before_gradients_read(self, run: TrainingRun, page: Page) -> None:
        """Correct the gradients to the exact mean before anything reads them."""
        now, world, device = self._progress.now, run.trainer.world_size, page.view.device
        self._progress.now = now.closed()
        self._gradients.forget()
        if self.spec.splits and world > 1:
            gradient_writer.average(page.view.parameters, device)
            page.look_again()
        if now.backwards == 0 and world == 1:
            return
        weight, size = now.weight, now.samples
        if world > 1:
            weight, size = sums_of_all(run.trainer, weight, size, device)
        self._effective = size
        correction = self._progress.correction(world=world, weight=weight)
        if isinstance(correction, Tensor) or correction != 1.0:
            factor = as_scalar(correction, device)
            page.correct(factor)
            run.writer.scale(factor)

    def _gradients_ready(self, run: TrainingRun, page: Page) -> None:
        if self._alone is not None and not page.empty:
            self._effective = self._alone
        if self._cadence.due(page.step) and self._effective is not None:
            values = {
                "accumulation/window": float(self._progress.now.batches),
                "accumulation/batch_size": self._effective,
            }
            if self.spec.scales_rate:
                values["accumulation/lr_factor"] = self._progress.rate_factor
            run.publisher.put(page.step, values)

    # -- state --------------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a checkpoint's state; the arguments of an older one are compared under today's names."""
        saved = state_dict.get("configuration") if isinstance(state_dict, Mapping) else None
        if isinstance(saved, dict):
            state_dict = {**state_dict, "configuration": current_configuration(saved, self.window)}
        super().load_state_dict(state_dict)

    def _trick_state(self) -> dict[str, Any]:
        run = self.live_run
        # On several processes each has a weight of its own, and gradients are not kept in a checkpoint.
        alone = run is not None and run.trainer.world_size == 1
        state = {**self._progress.state_dict(with_open_window=alone), "limit": self._step.splitter.limit}
        if run is not None and self.spec.scales_rate:
            state["rate_inside"] = run.rate.inside()
        return state


def _accumulate(trick: GradientAccumulation, run: TrainingRun) -> None:
    """Weigh micro-batches, and correct their sum, from now on."""
    trick._alone = None
    run.dispatch.rest(trick)


def _applied(run: TrainingRun) -> int:
    """Return the updates so far, without a host read: where only a device knows, its few skipped steps count too."""
    applied = run.clock.applied(0)
    if isinstance(applied, Tensor):
        known = host.value_on_host(applied)
        return run.clock.attempted(0) if known is None else int(known)
    return applied
