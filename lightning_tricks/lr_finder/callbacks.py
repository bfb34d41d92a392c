"""LRFinder: finds the learning rate before the first update, and leaves training as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, final

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.errors import (
    NonFiniteError,
    NotRestorableError,
    TrickError,
    in_one_line,
    message,
    require_choice,
    require_count,
    require_flag,
    require_number,
)
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.lr_finder.base_rates import base_rates, multiply_rates, without_known_rates
from lightning_tricks.lr_finder.suggest import (
    CANDIDATES,
    RULES,
    Result,
    best_candidate,
    candidates,
    has_learnt,
    has_turned,
    judge,
)
from lightning_tricks.lr_finder.sweep import diverged, rates, smoothed
from lightning_tricks.numerics import form
from lightning_tricks.optimizer_step.rate_request import require_rates

_BETA = {True: 0.8, False: 0.9}  # the loss of ever new batches is noisier than that of a fixed one


@final
class LRFinder(Trick):
    """Try learning rates from small to large before training, suggest one, and set it.

    The sweep runs in a snapshot that puts everything back, bit for bit; only the rate is new. Where something cannot be
    put back, or ``training_step`` fails in the sweep, a warning says so and training goes on with the rate that is
    there. Nothing is written to a disk. It does not run when training is resumed.

    Args:
        min_lr: first rate, > 0.
        max_lr: last rate; the sweep stops earlier when the loss diverges or is not finite.
        num_steps: rates to try, one update each.
        suggestion: the rule that decides: ``"minimum"`` (a tenth of the rate with the lowest loss), ``"center"`` (a
            quarter of the mean rate of the fall; moves least with the order of the data), ``"slide"``, ``"valley"`` or
            ``"steepest"``. All are reported.
        probe: measure the loss on one fixed batch after each update, with one more forward pass. Off: the loss of the
            batches of the updates themselves, which is noisier.
        refine: let four candidates around the suggestion make ``num_steps`` updates each, from the same state on the
            same data, and take the smallest that is about as good as the best. Where the sweep has learnt too little
            to be believed, there are more of them, up to a third of the last rate of the sweep, and they decide.
        apply: set the rate. Groups keep their ratios; schedulers of the module are told too.
        on_low_confidence: ``"keep"`` the rate that is there and warn, or ``"raise"``; also where nothing was swept.
        mode: spacing of the rates, ``"exponential"`` or ``"linear"``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        UnsupportedError: at fit start, the data are iterable or keep a position of their own; manual optimization,
            several optimizers, LBFGS, FSDP, DeepSpeed.
        TrickError: at fit start, no confidence and ``on_low_confidence="raise"``; all rates are 0.

    Logs:
        - figure ``lr_finder`` for loggers that draw (TensorBoard), at the first step.

    Changes:
        ``lr`` of every parameter group, before the first update; base rates of the module's schedulers.

    State:
        The suggestion and whether it was applied. A resume uses the rates in the checkpoint.

    Cost:
        ``num_steps`` updates, each with one more forward pass when ``probe`` is on; a copy of what is trained in the
        host's memory. Nothing while training.

    Example:
        >>> from lightning_tricks import LRFinder
        >>> LRFinder(num_steps=50).lrs[0], LRFinder(num_steps=50).lrs[-1]
        (1e-07, 10.0)

    Reference: Smith, 2017, arXiv:1506.01186 (range test); Howard, Gugger, 2020, arXiv:2002.04688 (rules).
    """

    state_form = staticmethod(form.record({"suggestion": form.maybe(form.positive), "applied": form.flag}, more=True))

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        num_steps: int = 100,
        suggestion: Literal["minimum", "slide", "valley", "steepest", "center"] = "minimum",
        probe: bool = True,
        refine: bool = False,
        apply: bool = True,
        on_low_confidence: Literal["keep", "raise"] = "keep",
        mode: Literal["exponential", "linear"] = "exponential",
    ) -> None:
        owner = "LRFinder"
        self.min_lr = require_number(owner, "min_lr", min_lr, remedy="Use e.g. 1e-7")
        self.max_lr = require_number(owner, "max_lr", max_lr, low=self.min_lr, remedy="Use e.g. 10.0")
        self.num_steps = require_count(owner, "num_steps", num_steps, low=10, remedy="Use e.g. 100")
        self.suggestion = require_choice(owner, "suggestion", suggestion, RULES)
        self.probe = require_flag(owner, "probe", probe)
        self.refine = require_flag(owner, "refine", refine)
        self.apply = require_flag(owner, "apply", apply)
        self.on_low_confidence = require_choice(owner, "on_low_confidence", on_low_confidence, ("keep", "raise"))
        self.mode = require_choice(owner, "mode", mode, ("exponential", "linear"))
        self.reset()

    def reset(self) -> None:
        """Forget the last run."""
        self._result: Result | None = None
        self._suggested: float | None = None
        self._applied = False

    @property
    def lrs(self) -> list[float]:
        """The rates that are tried."""
        return rates(self.min_lr, self.max_lr, self.num_steps, self.mode)

    @property
    def result(self) -> Result | None:
        """What the sweep has found; None before it, and in a resumed run."""
        return self._result

    def plot(self) -> Any:
        """Return the figure of the result: losses over rates, every suggestion marked.

        Raises:
            TrickError: there was no sweep yet.
        """
        if self._result is None:
            raise TrickError("LRFinder: there is nothing to draw before Trainer.fit, nor after a resume.")
        return self._result.plot()

    # -- before the first update --------------------------------------------------------------------------------

    def prepare(self, run: TrainingRun) -> None:
        """Sweep, judge, and set the rate before any trick looks at it."""
        trainer = run.trainer
        if self._loaded is not None:
            return
        if trainer.global_step > 0:
            self._go_on(trainer)
            return
        if trainer.fast_dev_run:
            rank_zero_info("LRFinder: not run, since fast_dev_run tries the loop only.")
            return
        base = self._base(trainer.optimizers[0]) if trainer.optimizers else []
        try:
            with DryRun(run, "LRFinder", instead="set lr yourself") as dry_run, self._progress(trainer) as advance:
                self._result = self._refined(dry_run, base, self._sweep(dry_run, base, advance), advance)
        except NotRestorableError as error:
            self._give_up(str(error), base)
        except TrickError:
            raise
        except Exception as error:  # of the user's code: if training has it too, it will be told there
            where = f"the dry run failed ({type(error).__name__}: {in_one_line(error)})"
            self._give_up(f"{where}. If training itself does not fail, set lr yourself.", base)
        else:
            self._suggested = self._result.suggestion
            self._conclude(run, self._result, base)

    def _go_on(self, trainer: Any) -> None:
        """Another fit of this Trainer, whose optimizers were made anew; or a resume of a run that had no finder."""
        if self._applied and self._suggested is not None and trainer.optimizers:
            base = self._base(trainer.optimizers[0])
            self._set(trainer, self._suggested, base)
            rank_zero_info(f"LRFinder: lr = {self._suggested:.3g} (was {base[0]:.3g}), as found in the first fit.")
        elif self._suggested is None and self._result is None:
            step = trainer.global_step
            warn("LRFinder", f"not run, since training is at step {step}: a first rate is found before the first step.")

    def _give_up(self, why: str, base: list[float]) -> None:
        """Training goes on with the rate that is there, unless the user wants to be certain of one."""
        self._result = None
        if self.on_low_confidence == "raise":
            raise TrickError(f"LRFinder: no learning rate can be recommended: {why}")
        warn("LRFinder", f"not run, and the learning rate stays {base[0]:.3g}: {why}")

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Keep what an earlier part of the run has found, for the next checkpoint."""
        if state is not None:
            self._suggested, self._applied = state["suggestion"], state["applied"]

    def _base(self, optimizer: Any) -> list[float]:
        """Return the groups' own rates: those that a scheduler starts from, or rises to, where there is one."""
        require_rates("LRFinder", optimizer)
        found = base_rates(optimizer, _schedulers(self.run.trainer))
        if not any(found):
            text = "all learning rates are 0, so that groups have no ratios to keep"
            raise TrickError(message("LRFinder", "lr", found, text, "Give the optimizer e.g. lr=1e-3"))
        return found

    @staticmethod
    def _use(optimizer: Any, lr: float, base: list[float]) -> None:
        """Write ``lr`` into the first group that has a rate, and the others in their ratios to it."""
        reference = next(rate for rate in base if rate)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * rate / reference)
            else:
                group["lr"] = lr * rate / reference

    def _sweep(self, dry_run: DryRun, base: list[float], advance: Any) -> Result:
        first = dry_run.probe() if self.probe else None
        lrs: list[float] = []
        losses: list[float] = []
        for lr in self.lrs:
            self._use(dry_run.optimizer, lr, base)
            loss, ended = self._step(dry_run, begun=bool(lrs))
            advance()
            if first is None:  # without a probe, the first batch's loss was measured before its update
                first = loss
            if ended or (loss is not None and not math.isfinite(loss)):
                return self._judged(lrs, losses, first, ended=True)
            if loss is None:
                continue
            lrs.append(lr)
            losses.append(loss)
            if diverged(first or 0.0, smoothed(losses, _BETA[self.probe])):
                return self._judged(lrs, losses, first, ended=True)
        return self._judged(lrs, losses, first, ended=False)

    def _step(self, dry_run: DryRun, begun: bool) -> tuple[float | None, bool]:
        """Make one update; return its loss, and whether the run cannot go on with these weights or gradients."""
        try:
            loss = dry_run.update()
            return (dry_run.probe() if self.probe and loss is not None else loss), False
        except NonFiniteError:  # the run's GradientClip raises
            return None, True
        except Exception:  # a model may refuse to compute with NaN, as torch.distributions does
            if not begun or dry_run.weights_finite():
                raise
            return None, True

    def _judged(self, lrs: list[float], losses: list[float], first: float | None, *, ended: bool) -> Result:
        first = math.nan if first is None else first
        smooth = smoothed(losses, _BETA[self.probe])
        found = {name: rule(lrs, smooth, first) for name, rule in RULES.items()} if len(lrs) > 2 else {}
        suggestions = {name: lr for name, lr in found.items() if lr is not None}
        chosen = suggestions.get(self.suggestion)
        turned = has_turned(smooth, first, ended)
        reasons = judge(chosen, suggestions, lrs, losses, smooth, first, turned, ended) if lrs else ["no finite loss"]
        if not math.isfinite(first):
            reasons = ["the loss is not finite before the first update"]
        return Result(lrs, losses, smooth, first, suggestions, chosen, not reasons, reasons, turned)

    def _refined(self, dry_run: DryRun, base: list[float], result: Result, advance: Any) -> Result:
        """Let candidates train from the same state on the same data."""
        if not (self.refine and result.suggestion and self._can_be_refined(result)):
            return result
        bake_off: dict[float, float] = {}
        for lr in candidates(result.suggestion, None if result.confident else result.lrs[-1]):
            dry_run.restart()
            self._use(dry_run.optimizer, lr, base)
            bake_off[lr] = self._trained(dry_run, advance)
        best = best_candidate(bake_off, result.first_loss)
        if result.confident:
            return replace(result, suggestion=best or result.suggestion, bake_off=bake_off)
        if best is None or not has_learnt(bake_off[best], result.first_loss):
            reasons = [*result.reasons, "no rate of the bake-off did better"]
            return replace(result, reasons=reasons, bake_off=bake_off)
        return replace(result, suggestion=best, confident=True, reasons=[], bake_off=bake_off)

    def _trained(self, dry_run: DryRun, advance: Any) -> float:
        """Make ``num_steps`` updates; return the mean of the last ten losses, inf when it diverged."""
        losses: list[float] = []
        for i in range(self.num_steps):
            loss, ended = self._step(dry_run, begun=i > 0)
            advance()
            if ended or (loss is not None and not math.isfinite(loss)):
                return math.inf
            losses += [] if loss is None else [loss]
        return sum(losses[-10:]) / len(losses[-10:]) if losses else math.inf

    @staticmethod
    def _can_be_refined(result: Result) -> bool:
        """Whether nothing speaks against the suggestion but that the sweep has learnt little."""
        curve = (result.lrs, result.losses, result.smoothed, result.first_loss, result.diverged)
        return math.isfinite(result.first_loss) and not judge(
            result.suggestion, result.suggestions, *curve, settled=True
        )

    # -- what to do with it -------------------------------------------------------------------------------------

    def _conclude(self, run: TrainingRun, result: Result, base: list[float]) -> None:
        trainer, reasons = run.trainer, "; ".join(result.reasons)
        told = ", ".join(f"{name} {lr:.2g}" for name, lr in result.suggestions.items()) or "none"
        run.publisher.draw(run.step, "lr_finder", result.plot)
        if not result.confident:
            if self.on_low_confidence == "raise":
                raise TrickError(f"LRFinder: no learning rate can be recommended: {reasons}. Suggestions: {told}.")
            warn("LRFinder", f"the learning rate stays {base[0]:.3g}: {reasons}. Suggestions: {told}.")
            return
        assert result.suggestion is not None
        rank_zero_info(
            f"LRFinder: {'lr = ' if self.apply else 'suggests '}{result.suggestion:.3g} (was {base[0]:.3g}); "
            f"{len(result.lrs)} rates up to {result.lrs[-1]:.2g}; suggestions: {told}."
            f"{'' if result.diverged else ' The loss had not risen again there: with a larger max_lr, it may be more.'}"
        )
        if self.apply:
            self._set(trainer, result.suggestion, base)
            self._applied = True

    @staticmethod
    def _set(trainer: Any, lr: float, base: list[float]) -> None:
        optimizer, schedulers = trainer.optimizers[0], _schedulers(trainer)
        multiply_rates(optimizer, schedulers, lr / next(rate for rate in base if rate))
        for name in without_known_rates(schedulers):
            text = f"{name} is no scheduler of torch's kind: rates that it keeps are not known, and may be the old ones"
            warn("LRFinder", f"{text}. Write lr={lr:.3g} into your code.")

    @contextmanager
    def _progress(self, trainer: Any) -> Iterator[Any]:
        shown = trainer.progress_bar_callback is not None and getattr(rank_zero_only, "rank", 0) == 0
        total = self.num_steps * (1 + (len(CANDIDATES) if self.refine else 0))
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
            task = bar.add_task("finding the learning rate", total=total)
            yield lambda: bar.advance(task)

    # -- state --------------------------------------------------------------------------------------------------

    def configuration(self) -> dict[str, Any]:
        """Nothing: a resume does not run it."""
        return {}

    def trick_state(self) -> dict[str, Any]:
        """The suggestion, and whether it was applied."""
        return {"suggestion": self._suggested, "applied": self._applied}


def _schedulers(trainer: Any) -> list[Any]:
    return [config.scheduler for config in trainer.strategy.lr_scheduler_configs]
