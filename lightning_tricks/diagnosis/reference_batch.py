"""The first batch, run again at each check in eval mode, where that leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_tricks.detection.judge import keep_bounded
from lightning_tricks.diagnosis.slices import Numbers, Slices
from lightning_tricks.dry_run.isolated import step_again
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import NotRestorableError, in_one_line
from lightning_tricks.lifecycle.messages import inform, warn
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.names import compiled_as_a_whole, in_compiled_graphs, plain_modules
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.shards import local, on_any_rank

_SHOWN_SAMPLES = 16
_MOST_TRIES = 3  # batches without a loss before the reference batch is given up
_EACH = 8  # checks at which the batch is followed one by one; later at half as many in each doubling of the run
_SAME_LOSS = {False: 1e-4, True: 1e-2}  # relative; the larger one where the step computes in 16 bit


class ReferenceReading(NamedTuple):
    """What the first batch gave at a check.

    Args:
        loss: in eval mode; NaN where it could not be had.
        there: whether it was run again.
        failed: whether a process could not run it again, and so none does any more.
        shown: predictions for its first samples: class numbers, or values.
    """

    loss: float
    there: bool
    failed: bool
    shown: list[float]


class ReferenceBatch(Stages):
    """Follows the loss and the predictions on the first batch of a fit.

    This is done only where it is proven to leave no trace: everything that the module holds can be put back, and such a
    run before the first step gave the loss that the step itself then had. Whether it is done is decided alike on all
    processes.

    Args:
        asked_for: follow the batch also where the loss of the first step was not reproduced.
    """

    def __init__(self, asked_for: bool) -> None:
        self.predictions: list[tuple[int, list[float]]] = []  # with the updates before
        self._asked_for = asked_for
        self._batch: Any = None
        self._tries = 0
        self._expected: Tensor | None = None  # the loss of the first step, from before it; None once it was compared
        self._actual: Tensor | None = None
        self._run: TrainingRun | None = None
        self._coarse = False  # whether the step computes in 16 bit

    # -- to have one ------------------------------------------------------------------------------------------------

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Know the run, and how it computes."""
        self._run = run
        run.dispatch.rest(self)
        self._coarse = "16" in str(getattr(run.trainer.precision_plugin, "precision", ""))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the first batch."""
        if self._batch is None and self._tries < _MOST_TRIES and self._run is not None:
            self._tries += 1
            self._take(self._run, batch, batch_idx)

    def _take(self, run: TrainingRun, batch: Any, batch_idx: int) -> None:
        """Keep this batch; try before its step whether running it again leaves no trace and gives the same loss."""
        if not runs_again(run.trainer.lightning_module):
            self.give_up()
            return
        failed, loss = False, None
        # the module's hook comes between this one and the step; those of other callbacks may write files
        before = partial(run.trainer.lightning_module.on_train_batch_start, batch, batch_idx)
        try:
            loss = loss_of(step_again(run, batch, batch_idx, gradients=True, together=True, before=before))
        except NotRestorableError as error:
            failed = True
            self._tell(run, error)
        except Exception:  # of the user's code: if training has it too, it will be told there
            failed = True
        failed, missing = anywhere(run, [failed, not isinstance(loss, Tensor)])
        if failed:
            self.give_up()
        elif isinstance(loss, Tensor) and not missing:
            self._batch, self._expected, self._actual = batch, loss.reshape(()).float(), None

    def _tell(self, run: TrainingRun, error: NotRestorableError) -> None:
        text = f"the loss on the first batch is not followed: {error}"
        if not run.common.first_to_say("no reference batch"):
            return
        if self._asked_for:
            warn("TrainingDoctor", text)
        else:
            inform(f"TrainingDoctor: {text}")

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss of its step, to compare it with that of the dry run before."""
        if self._expected is not None and self._actual is None:
            self._actual = loss.detach().reshape(()).float() * trainer.accumulate_grad_batches  # Lightning divided it
        if self._run is not None and (self._actual is not None or self._tries >= _MOST_TRIES):
            self._run.dispatch.rest(self, "on_train_batch_start", "on_before_backward")

    def _followed(self, run: TrainingRun) -> bool:
        """Whether the reference batch is there, and its first step had the loss of the dry run before it."""
        if self._batch is None or self._expected is None:
            return self._batch is not None
        expected, actual = self._expected, self._actual
        self._expected = self._actual = None  # (decided once: one host read, at the first check)
        same = self._asked_for or (actual is not None and same_loss(expected, actual, coarse=self._coarse))
        if anywhere(run, [not same])[0]:
            self.give_up()
        return self._batch is not None

    def give_up(self) -> None:
        """Follow no batch in this fit."""
        self._batch, self._tries = None, _MOST_TRIES

    # -- to follow it -----------------------------------------------------------------------------------------------

    def measure(self, run: TrainingRun, device: torch.device, check: int, *, asked: bool = False) -> Slices:
        """Return the loss on the first batch in eval mode ``[1]``, and the predictions for its first samples.

        On several processes with the loss whether it could not be had, ``[2]``: of the same length on all of them, also
        where only one of them cannot run it.

        Args:
            run: the run.
            device: of what is returned.
            check: which one this is, from 1; nothing is run at most of those that come late.
            asked: whether it is run at this one in any case, since something looks wrong.
        """
        several = run.trainer.world_size > 1
        nothing = torch.zeros(0, device=device)
        if not (asked or is_followed_at(check)):
            return Slices((nothing,), (nothing,))
        failed = Slices((torch.tensor([torch.nan, 1.0] if several else [], device=device),), (nothing,))
        if not self._followed(run):
            return failed
        try:
            output, seen = _outputs(run, self._batch)
        except Exception as error:  # a training_step that cannot be called twice must not end the run
            self.give_up()
            text = f"the first batch cannot be run again ({type(error).__name__}: {in_one_line(error)})."
            warn("TrainingDoctor", text)
            return failed
        loss = output.get("loss") if isinstance(output, Mapping) else output
        said = loss.detach().reshape(1).float() if isinstance(loss, Tensor) else torch.full((1,), torch.nan)
        said = torch.cat([said.to(device), torch.zeros(1, device=device)]) if several else said.to(device)
        shown = predictions_of(output, seen)
        return Slices((said,), (nothing if shown is None else shown.to(device),))

    def follow(self, reading: ReferenceReading, step: int) -> dict[str, float]:
        """Take up what a check gave; return what is logged of it.

        Args:
            reading: of this check.
            step: updates that were made.
        """
        if reading.failed:
            self.give_up()
        elif reading.there:
            self.predictions.append((step, reading.shown))
        keep_bounded(self.predictions)
        return {"fixed_batch_loss": reading.loss} if reading.there and not reading.failed else {}

    def _cleanup(self, run: TrainingRun) -> None:
        """Let go of the batch."""
        self._batch, self._tries, self._expected, self._actual = None, 0, None, None


def is_followed_at(check: int) -> bool:
    """Whether the batch is run again at a check, counted from 1: at each at first, then ever more seldom.

    To put everything back takes as long as some steps. A curve whose axis is the length of the run needs no more.

    >>> [check for check in range(1, 100) if is_followed_at(check)][12:]
    [20, 24, 28, 32, 40, 48, 56, 64, 80, 96]
    """
    return check % max(1, (1 << (check - 1).bit_length()) // _EACH) == 0


def reading_of(numbers: Numbers) -> ReferenceReading:
    """Return what ``ReferenceBatch.measure`` gave.

    >>> reading_of(Numbers(([0.7],), ([3.0, 9.0],)))
    ReferenceReading(loss=0.7, there=True, failed=False, shown=[3.0, 9.0])
    >>> reading_of(Numbers(([0.7, 0.5],), ([],)))
    ReferenceReading(loss=nan, there=True, failed=True, shown=[])
    """
    (fixed,), (shown,) = numbers.shared, numbers.apart
    failed = bool(fixed[1:]) and fixed[1] > 0
    return ReferenceReading(fixed[0] if fixed and not failed else math.nan, bool(fixed), failed, shown)


def runs_again(module: Any) -> bool:
    """Whether a training step can be run once more, with a look into its modules."""
    return bool(module.automatic_optimization) and not compiled_as_a_whole(module)


def anywhere(run: TrainingRun, flags: list[bool]) -> list[bool]:
    """Return which flags hold on any process: whether a batch is run again has to be decided alike."""
    several = run.trainer.world_size > 1
    return on_any_rank(flags, run.trainer.strategy.root_device) if several else flags


def same_loss(expected: Tensor, actual: Tensor, *, coarse: bool) -> bool:
    """Whether the loss of a step is that of the dry run before it, but for what other kernels may change.

    Args:
        expected: of the dry run.
        actual: of the step.
        coarse: whether the step computes in 16 bit.

    >>> same_loss(torch.tensor(1.0), torch.tensor(1.001), coarse=False)
    False
    >>> same_loss(torch.tensor(1.0), torch.tensor(1.001), coarse=True)
    True
    """
    return torch.allclose(expected.to(actual), actual, rtol=_SAME_LOSS[coarse], atol=0.0, equal_nan=True)


def predictions_of(output: Any, seen: list[Tensor]) -> Tensor | None:
    """Return the predictions for the first samples of a batch: classes, or values where there is one per sample.

    Args:
        output: what the training step returned; its ``"logits"`` where it is a dict that has them.
        seen: outputs of the modules, in the order of their calls; the last one is taken that is not one number.

    >>> predictions_of(None, [torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor(0.5)])
    tensor([1., 0.])
    """
    named = output.get("logits") if isinstance(output, Mapping) else None
    last = named if isinstance(named, Tensor) else next((t for t in reversed(seen) if t.ndim > 1), None)
    if last is None:
        return None
    rows = local(last.detach()).reshape(-1, last.shape[-1])[:_SHOWN_SAMPLES]
    return (rows.argmax(1) if rows.shape[1] > 1 else rows[:, 0]).float()


def _outputs(run: TrainingRun, batch: Any) -> tuple[Any, list[Tensor]]:
    """Run a batch again in eval mode; return what the training step returned, and the outputs of the modules."""
    seen: list[Tensor] = []
    module = run.trainer.lightning_module
    hidden = in_compiled_graphs(module)
    # (counted, since a module may refuse to be true or false, as one that holds parameters under names)
    modules = [m for m in plain_modules(module).values() if id(m) not in hidden]
    leaves = [m for m in modules if next(m.children(), None) is None]
    handles = [m.register_forward_hook(Hook(lambda _, args, out: seen.extend(floating(out)[:1]))) for m in leaves]
    try:
        return step_again(run, batch, 0, evaluate=True, together=True), seen
    finally:
        for handle in handles:
            handle.remove()
