"""GradientAccumulation: the gradient of the one big batch from several micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_tricks.accumulation.out_of_memory import SplitStep
from lightning_tricks.accumulation.split import split_samples
from lightning_tricks.accumulation.weights import WEIGHTS, Weight, as_weight, read_samples
from lightning_tricks.accumulation.window import Fixed, Target, as_window
from lightning_tricks.dry_run.training_step import StepWrapper
from lightning_tricks.errors import ConflictError, TrickError, UnsupportedError, message, require_choice
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick, defined_by_lightning
from lightning_tricks.numerics import form, host
from lightning_tricks.numerics.host import as_scalar
from lightning_tricks.numerics.shards import reduced
from lightning_tricks.optimizer_step import gradient_writer
from lightning_tricks.optimizer_step.logbook import Page
from lightning_tricks.publishing.publish import Cadence

_SCALINGS: dict[str, Callable[[float], float]] = {"none": lambda ratio: 1.0, "linear": float, "sqrt": math.sqrt}


@final
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
        on_oom: ``"split"``: when a device has no memory left, split the batch into two parts, four, ... and go on with
            the same gradient; the smaller size is kept. ``"raise"``: end as without us.
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
        The reference weight, the part size, the rate factor. A run that is resumed in mid-window goes on with the
        micro-batches that are left: their exact mean makes that update.

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

    in_dry_run = True
    state_form = staticmethod(
        form.record(
            {
                "reference": form.maybe(form.positive),
                "micro_size": form.maybe(form.positive),
                "limit": form.maybe(form.positive),
                "rate_factor": form.rate,
                "open": form.maybe(
                    form.record(
                        {
                            "planned": form.whole,
                            "batches": form.whole,
                            "size": form.least_zero,
                            "backwards": form.whole,
                            "weight": form.least_zero,
                            "samples": form.least_zero,
                        }
                    )
                ),
            },
            more=True,
        )
    )

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
        owner = "GradientAccumulation"
        self.batches = batches
        self.target_batch_size = target_batch_size
        self.window = as_window(batches, target_batch_size)
        self.weight = weight if callable(weight) else require_choice(owner, "weight", weight, WEIGHTS)
        self.on_oom = require_choice(owner, "on_oom", on_oom, ("raise", "split"))
        self.lr_scaling = require_choice(owner, "lr_scaling", lr_scaling, _SCALINGS)
        self.split_fn = split_fn
        if split_fn is not None and on_oom != "split":
            text = "split_fn is used with on_oom='split' only"
            raise ValueError(message(owner, "split_fn", split_fn, text, "Add on_oom='split', or leave it out"))
        if isinstance(self.window, Target) and weight == "equal":
            text = "a target size needs weights that are sizes"
            raise ValueError(message(owner, "weight", weight, text, "Use 'samples', 'tokens' or a function"))
        self.reset()

    def reset(self) -> None:
        """Forget the last run."""
        self._window = self.window
        self._reference: float | None = None
        self._micro_size: float | None = None
        self._rate_factor = 1.0
        self._effective: float | Tensor | None = None
        self._now = _Open()
        self._batch: _MicroBatch | None = None
        self._stepped = False
        self._left_open: dict[str, Any] | None = None
        self._pending: list[Tensor | None] | None = None
        self._records: bool | None = None
        self._abandoned = False
        self._left_out: list[RemovableHandle] = []
        self._last_write: tuple[Tensor, int] | None = None
        self._wrapper = StepWrapper()
        own = self.split_fn is not None
        self._splitter = SplitStep(self._weigh_part, self._count, self.split_fn or self._split, own=own)

    # -- what was measured --------------------------------------------------------------------------------------

    @property
    def effective_batch_size(self) -> int | None:
        """Samples in the last update over all processes, as the weights count them; None before the first.

        Reads one number from the device.
        """
        return None if self._effective is None else round(float(self._effective))

    @property
    def max_split_size(self) -> float | None:
        """Samples (parts of a batch, with ``split_fn``) that fitted into memory; None when no batch had to be split."""
        return self._splitter.limit

    # -- a run begins and ends ----------------------------------------------------------------------------------

    def configure(self, run: TrainingRun) -> None:
        """Refuse what cannot be exact, and take over the window."""
        trainer, module, owner = run.trainer, run.trainer.lightning_module, "GradientAccumulation"
        theirs = trainer.accumulate_grad_batches
        if theirs != 1:
            text = "Trainer(accumulate_grad_batches=) accumulates too"
            raise ConflictError(message(owner, "accumulate_grad_batches", theirs, text, "Leave it out"))
        if any(hasattr(callback, "get_accumulate_grad_batches") for callback in trainer.callbacks):
            text = "GradientAccumulationScheduler accumulates too"
            raise ConflictError(message(owner, "batches", self.batches, text, "Remove it, and pass batches={...}"))
        if not module.automatic_optimization:
            text = "manual optimization steps when the module says so"
            raise UnsupportedError(message(owner, "batches", self.batches, text, "Use automatic optimization"))
        if self.on_oom == "split":
            self._refuse_split(run)
        run.own_mean_factor = self._mean_factor
        run.window.claim(lambda factor: setattr(self, "_window", self.window.enlarged(factor)))
        if isinstance(self._window, Fixed):
            self._steer(trainer, self._window.batches)

    def _refuse_split(self, run: TrainingRun) -> None:
        module, owner = run.trainer.lightning_module, "GradientAccumulation"
        if not defined_by_lightning(module, "backward"):
            text = f"{type(module).__name__}.backward is overridden, and splitting runs the backward pass itself"
            raise UnsupportedError(message(owner, "on_oom", self.on_oom, text, "Use on_oom='raise'"))
        synced = [name for name, m in module.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)]
        if synced and run.trainer.world_size > 1:
            text = f"{synced[0]!r} is a SyncBatchNorm, which waits for all processes, and one alone may have to split"
            raise UnsupportedError(message(owner, "on_oom", self.on_oom, text, "Use on_oom='raise'"))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up the state, and put the splitting around the training step."""
        trainer, state = run.trainer, state or {}
        if any(isinstance(view.optimizer, torch.optim.LBFGS) for view in run.views):
            text = "LBFGS evaluates a window several times"
            raise UnsupportedError(message("GradientAccumulation", "batches", self.batches, text, "Use e.g. AdamW"))
        if self.lr_scaling != "none" and trainer.strategy.lr_scheduler_configs:
            text = "the module's own scheduler overwrites a scaled rate"
            raise TrickError(message("GradientAccumulation", "lr_scaling", self.lr_scaling, text, "Use LRSchedule"))
        self._reference = state.get("reference", self._reference)
        self._micro_size = state.get("micro_size", self._micro_size)
        self._splitter.limit = state.get("limit", self._splitter.limit)
        if "rate_factor" in state and not run.rate.claimed:
            run.rate.restore(state["rate_factor"], "accumulation")  # the rates in the checkpoint have it already
        self._cadence = Cadence(trainer.log_every_n_steps, run.step)
        self._now, self._stepped, self._pending = _Open(), False, None
        self._left_open = state.get("open")
        if self.on_oom == "split":
            if any(view.sharded for view in run.views):
                text = "sharded parameters (FSDP2) communicate while they run backward"
                raise UnsupportedError(message("GradientAccumulation", "on_oom", self.on_oom, text, "Use 'raise'"))
            if hasattr(trainer.strategy.model, "require_backward_grad_sync"):
                # no all-reduce may be under way when one rank alone has to split: gradients are reduced before a step
                trainer.strategy.model.require_backward_grad_sync = False
            self._wrapper.install(trainer.lightning_module, self._split_step)
        elif run.loss_scale.active and trainer.world_size == 1:
            self._wrapper.install(trainer.lightning_module, self._step_or_zero)

    def stopped(self, run: TrainingRun) -> None:
        """Put back what was changed."""
        self._wrapper.remove()
        self._steer(run.trainer, 1)
        model = run.trainer.strategy.model
        if self.on_oom == "split" and hasattr(model, "require_backward_grad_sync"):
            model.require_backward_grad_sync = True
        run.own_mean_factor = None
        self._batch, self._pending, self._last_write = None, None, None
        self._count_again()

    @staticmethod
    def _steer(trainer: Any, batches: int) -> None:
        trainer.accumulate_grad_batches = batches

    def updates_in_epoch(self, batches: float, done: int) -> int | None:
        """Return the updates of an epoch, for the forecast; None when not known."""
        size = None
        if isinstance(self._window, Target) and self.weight == "samples":
            trainer = self.run.trainer
            own = getattr(trainer.train_dataloader, "batch_size", None)
            size = self._micro_size if own is None else own * trainer.world_size
        return self._window.updates(batches, size, done)

    # -- a micro-batch ------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Give up a window that an epoch has left open (``on_train_batch_start`` returned -1): Lightning does too."""
        self._abandoned = self._now.batches > 0 and not self._stepped

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Weigh the micro-batch, and say whether the optimizer steps after it."""
        run = self._live
        if run is None:
            return
        self._count_again()
        self._go_on_with_window(pl_module)
        if self._stepped or self._abandoned:
            self._begin_window(trainer, batch_idx)
        elif self._thrown_away(run):
            self._now = _Open(self._now.planned)
        weight = self._weigh(batch)
        whole = self._size_of_all(run, weight)
        self._batch = _MicroBatch(weight, self._samples(batch, weight), whole)
        self._now.batches += 1
        if self._reference is None:
            self._set_references(run, weight, whole)
        if self._now.batches == 1:
            self._plan(run)
        if not isinstance(self._window, Fixed):
            self._now.size += whole
            closes = self._window.closes(self._now.batches, self._now.size, self._applied(run))
            # Lightning steps when ready % N == 0 and clears gradients when index % N == 0: N = ready steps without
            # clearing, N = ready + 1 does neither; the first batch of an epoch may be cleared
            self._steer(trainer, batch_idx + (1 if closes else 2))

    def _weigh(self, batch: Any) -> Weight:
        if self.weight == "samples":
            return self._read(batch)
        weight: Weight = self.weight(batch) if callable(self.weight) else WEIGHTS[self.weight](batch)
        return as_weight(weight)

    def _read(self, batch: Any) -> int:
        """Return the samples of a batch; one that can be read in two ways is read like those before it."""
        found = read_samples(batch, self._records)
        self._records = self._records if found.records is None else found.records
        return found.count

    def _samples(self, batch: Any, weight: Weight) -> Weight:
        """Return what a batch adds to the effective batch size: its samples, or what a function says that it weighs."""
        if self.weight == "samples" or callable(self.weight):
            return weight
        try:
            return self._read(batch)
        except TrickError:  # nobody asked for samples
            return weight

    def _count(self, batch: Any) -> int:
        """Return the samples of a batch that is to be split; for a function of the user's that need not be known."""
        try:
            return self._read(batch)
        except TrickError:
            if self.split_fn is None:
                raise
            return 1

    def _split(self, batch: Any, parts: int) -> list[Any]:
        return split_samples(batch, parts, self._records)

    def _weigh_part(self, part: Any) -> Weight:
        """Weigh a part of a micro-batch: where all micro-batches weigh the same, their parts still differ in size.

        Parts that the user's function made may be parts of anything: they weigh the same unless tokens are counted.
        """
        if self.weight not in ("samples", "equal"):
            return self._weigh(part)
        return self._read(part) if self.split_fn is None else 1

    def _size_of_all(self, run: TrainingRun, weight: Weight) -> float:
        """Return the weight over all processes where the window depends on it; all must agree."""
        if not isinstance(self._window, Target):
            return 0.0
        trainer = run.trainer
        if trainer.world_size == 1:
            return float(weight)
        total = torch.as_tensor(float(weight), device=trainer.strategy.root_device)
        return float(reduced(trainer.strategy, total, "sum"))

    def _set_references(self, run: TrainingRun, weight: Weight, whole: float) -> None:
        """Take the first weight as the unit, the same on all processes: so gradients keep their magnitude."""
        trainer = run.trainer
        first = float(trainer.strategy.broadcast(float(weight)))
        self._reference = first if first > 0 else 1.0
        self._micro_size = whole or self._reference * trainer.world_size

    def _plan(self, run: TrainingRun) -> None:
        applied = self._applied(run)
        self._now.planned = self._window.planned(self._micro_size or 1.0, applied)
        ratio = self._now.planned
        if isinstance(self._window, Target):
            ratio = self._window.size / (self._micro_size or 1.0)  # type: ignore[assignment]
        self._rate_factor = _SCALINGS[self.lr_scaling](ratio)
        if self.lr_scaling != "none":
            run.rate.ask(self._rate_factor, [view.optimizer for view in run.views], "accumulation")

    @staticmethod
    def _applied(run: TrainingRun) -> int:
        applied = run.clock.applied(0)
        if isinstance(applied, Tensor):
            known = host.at_hand(applied)
            # where only a device knows, its few skipped steps count: no host read for a window
            return run.clock.attempted(0) if known is None else int(known)
        return applied

    def _begin_window(self, trainer: Any, batch_idx: int) -> None:
        """A window begins. Where it does not begin at a batch at which Lightning clears the gradients, do that here."""
        self._now, self._stepped, self._abandoned, self._last_write = _Open(), False, False, None
        model = trainer.strategy.model
        if hasattr(model, "require_forward_param_sync"):
            model.require_forward_param_sync = True  # DDP sends rank 0's buffers at the begin of a window
        if batch_idx == 0 or (isinstance(self._window, Fixed) and batch_idx % self._window.batches == 0):
            return
        optimization = trainer.fit_loop.epoch_loop.automatic_optimization
        for optimizer in trainer.optimizers:
            optimization._on_before_zero_grad(optimizer)
            optimization._optimizer_zero_grad(batch_idx, optimizer)

    def _go_on_with_window(self, module: Any) -> None:
        """A run was resumed in the middle of a window: it goes on where its gradients were put back (ExactResume)."""
        found, self._left_open = self._left_open, None
        if found is not None and any(p.grad is not None for p in self._parameters(module)):
            self._now = _Open(**found)

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Nothing is accumulated. (Lightning clears gradients after the forward pass of the first micro-batch.)"""
        self._now.backwards, self._now.weight, self._now.samples = 0, 0, 0.0

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Weight the loss."""
        run = self._live
        if run is None or self._batch is None:
            return
        weight = self._batch.weight
        if self._thrown_away(run):
            size = 0.0 if isinstance(self._window, Fixed) else self._batch.whole
            self._now = _Open(self._now.planned, batches=1, size=size)
        now = self._now
        now.backwards += 1
        now.weight = now.weight + weight
        now.samples = now.samples + self._batch.samples
        if self._pending is not None:  # the backward pass is over: its gradients join those of the window
            gradient_writer.add(self._parameters(pl_module), self._pending)
            self._pending = None
            return
        factor = self._factor(weight) * trainer.accumulate_grad_batches  # Lightning divided the loss by it
        if isinstance(factor, Tensor) or factor == 0.0:
            alive = factor != 0 if isinstance(factor, Tensor) else None
            self._left_out = gradient_writer.leave_out(self._parameters(pl_module), alive)
        if isinstance(factor, Tensor) or factor != 1.0:
            # (a product with a tensor of another dtype would change that of the gradient)
            loss.register_hook(lambda gradient: (gradient * factor).to(gradient.dtype))  # type: ignore[no-untyped-call]

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Let gradients count again; remember which were written."""
        self._count_again()
        run = self._live
        if run is not None and self._now.backwards:
            written = next((p.grad for view in run.views for p in view.parameters if p.grad is not None), None)
            self._last_write = None if written is None else (written, written._version)

    def _count_again(self) -> None:
        handles, self._left_out = self._left_out, []
        for handle in handles:
            handle.remove()

    def _thrown_away(self, run: TrainingRun) -> bool:
        """Whether the gradients of the open window are gone: somebody has called ``zero_grad`` between two batches.

        Zeros are asked for only where gradients were written to since the last backward pass: nobody does that else.
        """
        # FSDP2 keeps the gradients of a window elsewhere until it reduces them
        if self._now.backwards == 0 or any(view.sharded for view in run.views):
            return False
        gradients = (p.grad for view in run.views for p in view.parameters if p.grad is not None)
        first = next(gradients, None)
        if self._last_write is None:  # no parameter had a gradient, or a resumed window goes on
            return False
        written, version = self._last_write
        if first is None or (first is written and written._version == version):
            return first is None
        return not any(gradient_writer.holds_something(g) for g in (first, *gradients))

    def _factor(self, weight: Weight) -> float | Tensor:
        assert self._reference is not None
        return weight / (self._reference * self._now.planned)

    def _mean_factor(self) -> float | Tensor:
        assert self._reference is not None
        return _per_weight(self._reference * self._now.planned, self._now.weight)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Give the callbacks after this one the true loss, which Lightning has divided (#13243)."""
        # until lightning>2.6.6 (#13243)
        divided = trainer.accumulate_grad_batches
        if self._live is not None and divided != 1 and isinstance(outputs, Mapping) and "loss" in outputs:
            outputs["loss"].mul_(divided)

    # -- an update ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def opened(self, run: TrainingRun, page: Page) -> None:
        """Correct the gradients to the exact mean before anything reads them."""
        self._stepped, self._last_write = True, None
        now, world = self._now, run.trainer.world_size
        if self.on_oom == "split":
            self._reduce(run, page)
        if now.backwards == 0 and world == 1:
            return
        device = page.view.device
        weight, size = now.weight, now.samples
        if world > 1:
            pair = torch.stack([as_scalar(weight, device), as_scalar(size, device)])
            weight, size = reduced(run.trainer.strategy, pair, "sum").unbind()
        self._effective = size
        assert self._reference is not None
        correction = _per_weight(world * self._reference * now.planned, weight)
        if isinstance(correction, Tensor) or correction != 1.0:
            factor = as_scalar(correction, device)
            page.correct(factor)
            run.writer.scale(factor)

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """Log the window."""
        if self._cadence.due(page.step) and self._effective is not None:
            values = {"accumulation/window": float(self._now.batches), "accumulation/batch_size": self._effective}
            if self.lr_scaling != "none":
                values["accumulation/lr_factor"] = self._rate_factor
            run.publisher.put(page.step, values)

    def _reduce(self, run: TrainingRun, page: Page) -> None:
        if run.trainer.world_size > 1:
            gradient_writer.average(page.view.parameters, page.view.device)
            page.look_again()

    # -- when memory runs out -----------------------------------------------------------------------------------

    def _step_or_zero(self, step: Callable[..., Any], *arguments: Any) -> Any:
        output = step(*arguments)
        return self._zero_loss() if output is None else output

    def _zero_loss(self) -> Tensor | None:
        """Return a loss of zero that depends on nothing, where there are gradients to step with and no loss.

        Under a GradScaler, Lightning throws a whole window away when its last micro-batch has none.
        """
        # until lightning>2.6.6 (#16228)
        run = self._live
        if run is None or self._now.backwards == 0 or not torch.is_grad_enabled():
            return None
        if not run.loss_scale.active or run.trainer.world_size > 1:
            return None
        self._batch = None
        return torch.zeros((), device=run.trainer.strategy.root_device, requires_grad=True)

    def _split_step(self, step: Callable[..., Any], batch: Any, *rest: Any) -> Any:
        """Run forward and backward, in smaller parts when memory runs out, beside the gradients of the window."""
        run = self._live
        if run is None or self._batch is None or not torch.is_grad_enabled():
            return step(batch, *rest)
        parameters = self._parameters(run.trainer.lightning_module)
        kept = gradient_writer.take(parameters)
        try:
            output = self._splitter.run(run, step, batch, rest, self._factor(self._batch.weight))
            self._pending = None if output is None else gradient_writer.take(parameters)
        finally:
            gradient_writer.give(parameters, kept)
        return self._zero_loss() if output is None else output

    @staticmethod
    def _parameters(module: Any) -> list[Tensor]:
        return [p for p in module.parameters() if p.requires_grad]

    # -- state --------------------------------------------------------------------------------------------------

    def configuration(self) -> dict[str, Any]:
        """The arguments, as text."""
        weight = getattr(self.weight, "__qualname__", str(self.weight))
        return {"window": repr(self.window), "weight": weight, "on_oom": self.on_oom, "lr_scaling": self.lr_scaling}

    def trick_state(self) -> dict[str, Any]:
        """The unit of weights, the size that fitted into memory, the factor on the rate, the window that is open."""
        return {
            "open": self._open_window(),
            "reference": self._reference,
            "micro_size": self._micro_size,
            "limit": self._splitter.limit,
            "rate_factor": self._rate_factor,
        }

    def _open_window(self) -> dict[str, Any] | None:
        run, now = self._live, self._now
        # on several processes each has a weight of its own, and gradients are not kept in a checkpoint
        if run is None or self._stepped or now.backwards == 0 or run.trainer.world_size > 1:
            return None
        return {**vars(now), "size": float(now.size), "weight": float(now.weight), "samples": float(now.samples)}


@dataclass
class _Open:
    """The window that is open."""

    planned: int = 1
    batches: int = 0
    size: float = 0.0
    backwards: int = 0
    weight: Weight = 0
    samples: float | Tensor = 0.0


@dataclass(frozen=True)
class _MicroBatch:
    """The micro-batch under way."""

    weight: Weight
    samples: Weight
    whole: float  # weight over all processes, where the window depends on it


def _per_weight(value: float, weight: Weight) -> float | Tensor:
    """Return ``value / weight``; 1 where nothing in the window counted: its gradient is 0 already, and would be NaN."""
    if isinstance(weight, Tensor):
        return torch.where(weight != 0, value / weight, 1.0)
    return value / weight if weight else 1.0
