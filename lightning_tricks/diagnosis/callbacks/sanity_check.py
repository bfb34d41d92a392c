"""SanityCheck: experiments before the first step, in a dry run that leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import Progress

from lightning_tricks.diagnosis import (
    data_experiments,
    experiments,
    future_experiments,
    gradient_flow,
    label_experiments,
    loss_experiments,
    manual_experiments,
    sample_experiments,
    schedule_arguments,
)
from lightning_tricks.diagnosis.attention_masks import masks
from lightning_tricks.diagnosis.axes import axes
from lightning_tricks.diagnosis.broadcasts import meetings
from lightning_tricks.diagnosis.examination import Examination
from lightning_tricks.diagnosis.given_answers import given_answers
from lightning_tricks.diagnosis.loss_pairs import pairs_of_losses
from lightning_tricks.diagnosis.loss_rows import misplaced, unrelated_draws
from lightning_tricks.diagnosis.output_labels import places, reach
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.errors import (
    NotRestorableError,
    TrickError,
    UnsupportedError,
    in_one_line,
    require_choice,
    require_flag,
)
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics.shards import on_any_rank
from lightning_tricks.publishing.statement import as_console_table, as_table


@final
class SanityCheck(Trick):
    """Ask, before the first update, whether this training can work at all; print a table of answers and fixes.

    Experiments on a few batches, with the module's own ``training_step``, hooks, loader, optimizer and precision. They
    run in a snapshot that puts everything back: the training after it is bit-identical to one without it. Where
    something cannot be put back, a warning names it and nothing is run.

    A check fails only where the training cannot work as it is. What may be meant, what the data cannot show, and an
    experiment on which the model raises are marked ``?``. The loss is judged where its value is that of a usual
    loss of an output and a target; what a zero-initialised head, LoRA or ReZero hides is asked after five updates.
    With manual optimization the weights are asked what some steps do to them: rows "inputs matter", "all parameters
    learn", "modules are in training mode", "learning rate schedule" and "validation data are new". Not run on a
    resume, nor under ``fast_dev_run``.

    Args:
        initial_loss: compare the first loss with ``ln C`` (or the variance of a regression's target); find a softmax
            that is applied twice, a sum, a flipped sign, and what torch's loss functions are given and cannot mean
            (probabilities where logarithms belong, 0 for -1); find outputs and labels that broadcast or belong to other
            samples. Rows "initial loss" and "shapes of outputs and labels".
        overfit_batch: train on one batch, 40 updates; and on some batches, where nearest neighbours cannot tell whether
            labels belong to their inputs; look whether bounded outputs can reach their labels, whose samples triplets
            and pairs are, and whether the prediction depends on the noise that it is to tell. Rows "overfits one
            batch", "labels follow from inputs" and "labels are within reach".
        input_matters: zero the inputs; look at masks of attention, and for parameters that do not learn, dead or
            saturated units, and trained modules in eval mode. Rows "inputs matter", "all parameters learn", "units are
            alive" and "modules are in training mode".
        sample_independence: samples must not depend on each other, nor on what comes later in a sequence or has to be
            said there, nor on their place in the data, nor be validation data as well. Rows "samples do not leak", "no
            look into the future", "data are shuffled" and "validation data are new".
        on_failure: ``"warn"``, or ``"raise"`` to end the run before it begins.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, a check failed, with ``on_failure="raise"``.
        UnsupportedError: at fit start, with ``on_failure="raise"``, LBFGS, a sharding strategy, or data that cannot be
            given back; else a warning, and training goes on.

    Logs:
        The table, under ``diagnosis/sanity``: as a table or as text, by what the logger takes.

    Changes:
        Nothing.

    State:
        None: a resumed run is not checked again.

    Cost:
        Once: about 36 forward passes and 20 updates where all is well, at most as much as 150 training steps, and 240
        more where two inputs may form pairs or all labels are the same; up to 2048 training and 128 validation samples
        are read, and all labels of at most 512 batches until a second one is seen.

    Example:
        >>> from lightning_tricks import SanityCheck
        >>> SanityCheck(on_failure="raise").checks
        []

    Reference: Karpathy, "A Recipe for Training Neural Networks", 2019; Lightning #1237.
    """

    observer = True
    _internal = ("prints",)
    prints: bool = True  # the table on rank 0; the function ``sanity_check`` returns it instead

    def __init__(
        self,
        initial_loss: bool = True,
        overfit_batch: bool = True,
        input_matters: bool = True,
        sample_independence: bool = True,
        on_failure: Literal["warn", "raise"] = "warn",
    ) -> None:
        owner = "SanityCheck"
        self.initial_loss = require_flag(owner, "initial_loss", initial_loss)
        self.overfit_batch = require_flag(owner, "overfit_batch", overfit_batch)
        self.input_matters = require_flag(owner, "input_matters", input_matters)
        self.sample_independence = require_flag(owner, "sample_independence", sample_independence)
        self.on_failure = require_choice(owner, "on_failure", on_failure, ("warn", "raise"))
        self._reset()

    def _reset(self) -> None:
        """Forget the answers."""
        self._checks: list[Check] = []

    @property
    def checks(self) -> list[Check]:
        """The answers, in the order of the experiments; empty before a fit and in a resumed run."""
        return list(self._checks)

    def _before_start(self, run: TrainingRun) -> None:
        """Run the experiments before any trick looks at the optimizers."""
        trainer = run.trainer
        if trainer.global_step > 0 or self._loaded is not None:
            return
        if trainer.fast_dev_run:
            rank_zero_info("SanityCheck: not run, since fast_dev_run tries the loop only.")
            return
        try:
            with DryRun(run, "SanityCheck", manual=True) as dry_run:
                self._checks = self._examined(Examination(dry_run, trainer.lightning_module, trainer.optimizers))
        except NotRestorableError as error:
            warn("SanityCheck", f"not run: {error}")
            return
        except UnsupportedError as error:
            if self.on_failure == "raise":  # (whoever asks for a gate must not pass unchecked)
                raise
            warn("SanityCheck", f"not run: {str(error).removeprefix('SanityCheck: ')}")
            return
        except Exception as error:  # of the user's code: if training has it too, it will be told there
            warn("SanityCheck", f"not run: the dry run failed ({type(error).__name__}: {in_one_line(error)}).")
            return
        if self.prints and trainer.is_global_zero:
            Console().print(as_console_table("SanityCheck", self._checks))
        table = as_table(self._checks)
        run.publisher.tabulate(run.step, "diagnosis/sanity", table.columns, table.rows)
        failed = [c for c in self._checks if c.passed is False]
        somewhere = bool(failed)
        # (all processes end together: one that raises alone leaves the others waiting)
        if trainer.world_size > 1:
            somewhere = on_any_rank([somewhere], trainer.strategy.root_device)[0]
        if not somewhere:
            return
        reasons = "; ".join(f"{c.name}: {c.evidence}. Fix: {c.fix}" for c in failed)
        text = f"{len(failed)} of {len(self._checks)} checks failed. {reasons}."
        if not failed:
            text = "checks failed on another process, which has other batches."
        if self.on_failure == "raise":
            raise TrickError(f"SanityCheck: {text}")
        warn("SanityCheck", text)

    def _examined(self, exam: Examination) -> list[Check]:
        asked = self._asked_of_own_updates() if exam.dry_run.manual else self._asked()
        trainer, found = self.run.trainer, []
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
            task = bar.add_task("SanityCheck", total=len(asked))
            for name, experiment in asked.items():
                found += exam.ask(name, experiment)
                bar.advance(task)
        return found

    def _asked_of_own_updates(self) -> dict[str, Callable[[Examination], list[Check]]]:
        """Return the experiments for manual optimization, where no loss says what the model is for."""
        asked: dict[str, Callable[[Examination], list[Check]]] = {}
        if self.input_matters:
            asked["inputs matter"] = manual_experiments.inputs
            asked["all parameters learn"] = manual_experiments.learning
            asked["modules are in training mode"] = experiments.modes
            asked["learning rate schedule"] = schedule_arguments.schedules
        if self.sample_independence:
            asked["validation data are new"] = data_experiments.validation
        return asked

    def _asked(self) -> dict[str, Callable[[Examination], list[Check]]]:
        asked: dict[str, Callable[[Examination], list[Check]]] = {}
        if self.initial_loss:
            asked["initial loss"] = loss_experiments.initial_loss
            asked["shapes of outputs and labels"] = _shapes
        if self.input_matters:
            asked["inputs matter"] = _inputs
            asked["all parameters learn"] = gradient_flow.gradients
            asked["units are alive"] = experiments.units
            asked["modules are in training mode"] = experiments.modes
            asked["learning rate schedule"] = schedule_arguments.schedules
        if self.sample_independence:
            asked["samples do not leak"] = sample_experiments.sample_independence
            asked["no look into the future"] = _future
            asked["data are shuffled"] = data_experiments.order
            asked["validation data are new"] = data_experiments.validation
        if self.overfit_batch:
            asked["labels follow from inputs"] = _labels
            asked["overfits one batch"] = loss_experiments.overfit_batch
            asked["labels are within reach"] = reach
        return asked


def _shapes(exam: Examination) -> list[Check]:
    """Return the first fault of shapes that is found, from broadcasting to an axis that is mistaken for another."""
    # (a number that meets those of all others reaches rows of others, which would be told as labels in a wrong order)
    found = _quietly(meetings, exam) or loss_experiments.shapes(exam)
    return found or places(exam) or axes(exam) or _quietly(misplaced, exam)


def _inputs(exam: Examination) -> list[Check]:
    """Look at the masks of attention first: what they hide is not zeroed by any experiment."""
    return _quietly(masks, exam) or experiments.input_matters(exam)


def _future(exam: Examination) -> list[Check]:
    """Look at what the batch holds first, then at ids that the step makes itself."""
    found = future_experiments.future(exam)
    failed = exam.dry_run.steps.anywhere(any(check.passed is False for check in found))
    return found if failed else _quietly(given_answers, exam) or found


def _labels(exam: Examination) -> list[Check]:
    """Look at what belongs together in the calls of loss functions first, then at labels and a short training."""
    return _quietly(pairs_of_losses, exam) or _quietly(unrelated_draws, exam) or label_experiments.labels(exam)


def _quietly(experiment: Callable[[Examination], list[Check]], exam: Examination) -> list[Check]:
    """Run an experiment that finds a fault or says nothing: so it is, too, where the step raises on what is changed."""
    try:
        return experiment(exam)
    except Exception:
        return []
    finally:
        exam.dry_run.restart()
