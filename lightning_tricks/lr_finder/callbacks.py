"""LRFinder: finds the learning rate before the first update, and leaves training as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, final

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from rich.console import Console
from rich.progress import Progress

from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.errors import NotRestorableError, TrickError, in_one_line, message
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.lr_finder.base_rates import base_rates, without_known_rates
from lightning_tricks.lr_finder.result import Result
from lightning_tricks.lr_finder.search import OWNER, FinderSpec, find_rate
from lightning_tricks.numerics import form
from lightning_tricks.numerics.arguments import holds_arguments
from lightning_tricks.optimizer_step.rate_request import require_rates
from lightning_tricks.optimizer_step.scheduled_rates import multiply_rates


@final
@holds_arguments(FinderSpec)
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
        UnsupportedError: at fit start, the data can be iterated only once or keep a position of their own; manual
            optimization, several optimizers, LBFGS, FSDP, DeepSpeed.
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

    state_form = staticmethod(form.record({"suggestion": form.none_or(form.positive), "applied": form.flag}, more=True))

    also_called: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("num_training", "num_training_steps", "num_iter", "steps"), "num_steps={}"),
        **dict.fromkeys(("start_lr", "lr_min"), "min_lr={}"),
        **dict.fromkeys(("end_lr", "lr_max"), "max_lr={}"),
        **dict.fromkeys(("update_attr", "attr_name"), "nothing: the optimizer's rate is set, whatever its name"),
    }

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
        self.spec = FinderSpec(min_lr, max_lr, num_steps, suggestion, probe, refine, apply, on_low_confidence, mode)
        self._reset()

    def _reset(self) -> None:
        self._result: Result | None = None
        self._suggested: float | None = None
        self._applied = False

    @property
    def lrs(self) -> list[float]:
        """The rates that are tried."""
        return self.spec.lrs

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

    def _before_start(self, run: TrainingRun) -> None:
        """Sweep, judge, and set the rate before any trick looks at it."""
        trainer = run.trainer
        # (a resumed run goes on at the rates in its checkpoint)
        if self._loaded is not None:
            return
        if trainer.global_step > 0:
            self._go_on(trainer)
            return
        if trainer.fast_dev_run:
            rank_zero_info("LRFinder: not run, since fast_dev_run tries the loop only.")
            return
        base = _base_rates(trainer) if trainer.optimizers else []
        try:
            with DryRun(run, OWNER, instead="set lr yourself") as dry_run, _progress(trainer, self.spec) as advance:
                self._result = find_rate(self.spec, dry_run, base, advance)
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
        """Another fit of this Trainer, whose optimizers were rebuilt; or a resume of a run that had no finder."""
        if self._applied and self._suggested is not None and trainer.optimizers:
            base = _base_rates(trainer)
            _set_rate(trainer, self._suggested, base)
            rank_zero_info(f"LRFinder: lr = {self._suggested:.3g} (was {base[0]:.3g}), as found in the first fit.")
        elif self._suggested is None and self._result is None:
            step = trainer.global_step
            warn(OWNER, f"not run, since training is at step {step}: a first rate is found before the first step.")

    def _give_up(self, why: str, base: list[float]) -> None:
        """Training goes on with the rate that is there, unless the user wants to be certain of one."""
        self._result = None
        if self.spec.on_low_confidence == "raise":
            raise TrickError(f"LRFinder: no learning rate can be recommended: {why}")
        warn(OWNER, f"not run, and the learning rate stays {base[0]:.3g}: {why}")

    def _conclude(self, run: TrainingRun, result: Result, base: list[float]) -> None:
        """Say what was found, and set the rate where it is to be believed."""
        run.publisher.draw(run.step, "lr_finder", result.plot)
        if result.suggestion is None or not result.confident:
            why = f"{'; '.join(result.reasons)}. Suggestions: {result.told}."
            if self.spec.on_low_confidence == "raise":
                raise TrickError(f"LRFinder: no learning rate can be recommended: {why}")
            warn(OWNER, f"the learning rate stays {base[0]:.3g}: {why}")
            return
        rank_zero_info(
            f"LRFinder: {'lr = ' if self.spec.apply else 'suggests '}{result.suggestion:.3g} (was {base[0]:.3g}); "
            f"{len(result.lrs)} rates up to {result.lrs[-1]:.2g}; suggestions: {result.told}."
            f"{'' if result.diverged else ' The loss had not risen again there: with a larger max_lr, it may be more.'}"
        )
        if self.spec.apply:
            _set_rate(run.trainer, result.suggestion, base)
            self._applied = True

    def facts(self) -> dict[str, Any]:
        """The rate that was found, and whether it was set."""
        return {} if self._suggested is None else {"found_rate": self._suggested, "rate_was_set": self._applied}

    # -- state --------------------------------------------------------------------------------------------------

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Keep what an earlier part of the run has found, for the next checkpoint."""
        if state is not None:
            self._suggested, self._applied = state["suggestion"], state["applied"]

    def _reconfigured(self, changed: list[str]) -> None:
        """Say nothing: a resumed run keeps the rates of its checkpoint, whatever the arguments are."""

    def _trick_state(self) -> dict[str, Any]:
        return {"suggestion": self._suggested, "applied": self._applied}


def _base_rates(trainer: Any) -> list[float]:
    """Return the groups' own rates: those that a scheduler starts from, or rises to, where there is one.

    Raises:
        TrickError: all of them are 0.
    """
    optimizer = trainer.optimizers[0]
    require_rates(OWNER, optimizer)
    found = base_rates(optimizer, _schedulers(trainer))
    if not any(found):
        text = "all learning rates are 0, so that groups have no ratios to keep"
        raise TrickError(message(OWNER, "lr", found, text, "Give the optimizer e.g. lr=1e-3"))
    return found


def _set_rate(trainer: Any, lr: float, base: list[float]) -> None:
    """Set the rate of every group, and all that the module's schedulers remember of it."""
    optimizer, schedulers = trainer.optimizers[0], _schedulers(trainer)
    multiply_rates(optimizer, schedulers, lr / next(rate for rate in base if rate))
    for name in without_known_rates(schedulers):
        text = f"{name} is not a scheduler of torch's kind: rates that it keeps are not known, and may be the old ones"
        warn(OWNER, f"{text}. Write lr={lr:.3g} into your code.")


def _schedulers(trainer: Any) -> list[Any]:
    return [config.scheduler for config in trainer.strategy.lr_scheduler_configs]


@contextmanager
def _progress(trainer: Any, spec: FinderSpec) -> Iterator[Callable[[], None]]:
    """Give a function that moves a progress bar on, where the Trainer shows one, on rank 0."""
    shown = trainer.progress_bar_callback is not None and getattr(rank_zero_only, "rank", 0) == 0
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("finding the learning rate", total=spec.most_updates)
        yield lambda: bar.advance(task)
