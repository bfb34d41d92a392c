"""ExactResume: Lightning's loops on one side, random states and the data's position on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch

from lightning_tricks.errors import TrickError, UnsupportedError, listed, message, require_flag
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.modules.replaced import replaced
from lightning_tricks.numerics import form
from lightning_tricks.resume import held
from lightning_tricks.resume.replay import (
    begin_anew,
    keeps_its_own_state,
    outlives_epochs,
    pass_over,
    put_seeds,
    seeds,
    unrepeatable,
    watch_beginnings,
)
from lightning_tricks.resume.state import (
    generator_states,
    gradients,
    put_generator_states,
    put_gradients,
    put_random_state,
    random_state,
)

_NUMBERS = form.named(form.anything)
_HELD = form.named(_NUMBERS)


def _and_held(known: form.Form) -> form.Form:
    """What objects held beside is not in the first checkpoints of 0.1.0."""
    return lambda value, where: known(value, where) or _HELD(value.get("held", {}), f"{where}['held']")


_BEGAN = _and_held(
    form.record({"random": _NUMBERS, "generators": _NUMBERS, "workers": form.many(form.flag)}, more=True)
)
_RANK = _and_held(
    form.record(
        {
            "now": _NUMBERS,
            "generators": _NUMBERS,
            "began": form.maybe(_BEGAN),
            "batches": form.measured,
            "seeds": form.many(form.maybe(form.whole)),
            "validation": form.flag,
            "in_window": form.flag,
            "gradients": form.named(form.tensor),
        },
        more=True,
    )
)


@final
class ExactResume(Trick):
    """Make a resumed run the same run: bit-identical weights, as if it had not been interrupted.

    Lightning saves weights, optimizers and counters; this saves what is missing. The states of all random generators
    (Python, numpy, torch, of each device and each process; those held by the module, loaders, samplers and data sets),
    what else these hold and change while training (counters, orders that are shuffled in place, caches, deques, tensors
    that are no persistent buffers, ``requires_grad``), and the random state with which the epoch's data began. On a
    resume the epoch's order is made anew from that, the batches that were taken are passed over (without loading them
    where one process loads in an order that is drawn at once), and the generators go on where they were. So shuffling,
    dropout and random augmentation go on as they would have, also with another seed.

    Exact at every update. In the middle of an accumulation window the gradients so far are lost, unless they are saved;
    a resume from there says so.

    Args:
        gradients: save the gradients in the middle of a window: exact at every batch. One process only.

    Raises:
        TypeError: ``gradients`` is no bool.
        UnsupportedError: at fit start, gradients on several processes, or a ``training_step`` that takes the iterator;
            on a resume in mid-epoch, data that cannot be asked for their position (an iterable data set without a
            ``state_dict``; torchdata's StatefulDataLoader has one).
        TrickError: on a resume, the random state in the checkpoint is damaged.

    Logs:
        Nothing.

    Changes:
        Nothing in a run that is not resumed: its weights are bit-identical to those without it. On a resume the random
        generators, the data's position, and what had changed in the module and the data when the checkpoint was saved.
        What changed and cannot be saved (lists of objects, iterators in progress) is named at the first checkpoint.

    State:
        About 12 kB per process, and what has changed, up to 16 MiB a value; in mid-window with ``gradients=True`` also
        one gradient of each parameter. A resume on another number of processes goes on with other numbers and other
        data, with a warning.

    Cost:
        One reading of the random states at the begin of an epoch and at a checkpoint. On a resume with workers, custom
        samplers or several loaders: loading the batches that are passed over.

    Example:
        >>> from lightning_tricks import ExactResume
        >>> ExactResume(gradients=True).gradients
        True

    Reference: PyTorch, "Reproducibility"; torchdata, "Stateful DataLoader".
    """

    observer = True
    state_form = staticmethod(form.either_empty_or(form.record({"ranks": form.many(_RANK)})))

    def __init__(self, gradients: bool = False) -> None:
        self.gradients = require_flag("ExactResume", "gradients", gradients)
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._epoch_began: dict[str, Any] | None = None
        self._resuming: dict[str, Any] | None = None
        self._validated = 0
        self._data_before: held.Held | None = None  # as it was before the first batch
        self._module_before: held.Held | None = None
        self._final: dict[str, Any] = {}
        self._saved: list[str] = []
        self._endings: list[Callable[[], None]] = []

    def configuration(self) -> dict[str, Any]:
        """The argument."""
        return {"gradients": self.gradients}

    # -- a run begins -----------------------------------------------------------------------------------------------

    def configure(self, run: TrainingRun) -> None:
        """Stand where Lightning makes the epoch's iterator, and where it goes on after a resume."""
        trainer, loop = run.trainer, run.trainer.fit_loop
        if self.gradients and trainer.world_size > 1:
            text = "gradients of each process would have to be saved"
            remedy = "Use gradients=False, and save checkpoints at updates"
            raise UnsupportedError(message("ExactResume", "gradients", True, text, remedy))
        self._end()
        self._around(loop, "_load_combined_loader_states", after=lambda: self._watch(loop))
        self._around(loop, "on_advance_start", before=lambda: self._before_epoch(loop))
        begin = loop.epoch_loop.on_run_start

        def on_run_start(fetcher: Any) -> None:
            found, self._resuming = self._resuming, None
            if found is None:
                begin(fetcher)
                return
            in_the_middle = loop.epoch_loop.batch_progress.current.ready > 0
            self._find_place(loop, fetcher, found)
            begin(fetcher)
            if in_the_middle:
                _put_numbers(loop, found)
                self._put_all(loop, found)
                self._make_up_for_validation(run, found)
            self._keep_numbers(loop, fetcher)

        self._replace(loop.epoch_loop, "on_run_start", on_run_start)

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up what the checkpoint holds for this process."""
        if type(run.trainer.fit_loop._data_fetcher).__name__ == "_DataLoaderIterDataFetcher":
            raise UnsupportedError(
                "ExactResume: training_step takes the dataloader_iter, so nobody knows which batches it took. "
                "Let it take (batch, batch_idx)."
            )
        lasting = [dl for dl in run.trainer.fit_loop._combined_loader.flattened if outlives_epochs(dl)]
        if lasting:
            warn(
                "ExactResume",
                "persistent_workers=True: random numbers that are drawn in workers cannot be found again on a resume. "
                "Set it to False, or draw none there.",
            )
        if not state:
            if run.trainer.global_step > 0 and self._epoch_began is not None and run.trainer.fit_loop.restarting:
                warn("ExactResume", "the checkpoint holds no random state: this run goes on with other numbers.")
            return
        ranks = state["ranks"]
        if len(ranks) != run.trainer.world_size:
            warn(
                "ExactResume",
                f"the checkpoint is of {len(ranks)} processes, this run has {run.trainer.world_size}: its data and "
                "random numbers cannot be the same. It goes on with other ones.",
            )
            return
        self._resuming = found = ranks[run.trainer.global_rank]
        if found["batches"] != float(run.trainer.fit_loop.max_batches):
            warn(
                "ExactResume",
                f"an epoch had {found['batches']:.0f} batches and has {run.trainer.fit_loop.max_batches} now, so this "
                "cannot be the same run. Resume with the data and the batch size of the checkpoint.",
            )
        self._try_numbers(run, found)
        if found["in_window"] and not found["gradients"]:
            warn(
                "ExactResume",
                "the checkpoint was saved in the middle of an accumulation window, and holds no gradients: the first "
                "update is made without them. Save at updates, or use ExactResume(gradients=True).",
            )
        for checkpoint in run.trainer.checkpoint_callbacks:
            self._let_wait(checkpoint, run.trainer.global_step)
        put_seeds(run.trainer.fit_loop._combined_loader.flattened, found["seeds"])
        put_gradients(run.trainer.lightning_module, found["gradients"])

    def _let_wait(self, checkpoint: Any, resumed_at: int) -> None:
        """Let no ModelCheckpoint save before the first update.

        Lightning 2.6.6's has forgotten that it saved at this step, and where updates are due only every n-th batch, it
        would write over the good checkpoint one of the middle of a window.
        """
        usual = checkpoint.on_train_batch_end

        def on_train_batch_end(trainer: Any, *rest: Any, **more: Any) -> None:
            if trainer.global_step != resumed_at:
                usual(trainer, *rest, **more)

        if any(cls.__name__ == "ModelCheckpoint" for cls in type(checkpoint).__mro__):
            self._replace(checkpoint, "on_train_batch_end", on_train_batch_end)

    def _try_numbers(self, run: TrainingRun, found: dict[str, Any]) -> None:
        """Put the saved numbers into the generators and today's back: what does not fit is told now, by name."""
        loaders, module = run.trainer.fit_loop._combined_loader.flattened, run.trainer.lightning_module
        today, generators = random_state(), generator_states(loaders, module)
        try:
            for numbers in (found["now"], (found["began"] or {}).get("random", today)):
                put_random_state(numbers)
            put_generator_states(loaders, found["generators"], module)
            held.check(found.get("held", {}))
            held.check((found["began"] or {}).get("held", {}))
        except Exception as error:
            raise TrickError(
                f"ExactResume: the random state in the checkpoint cannot be used ({type(error).__name__}). "
                "Resume without ExactResume, or start anew."
            ) from error
        finally:
            put_random_state(today)
            put_generator_states(loaders, generators, module)

    def _watch(self, loop: Any) -> None:
        """The loaders of the run are there, and their iterator comes next."""
        combined = loop._combined_loader
        if self._data_before is None:
            self._data_before = held.held_by_data(loop.trainer)
        if not hasattr(combined, "_begins_are_watched"):
            combined._begins_are_watched = True
            end = watch_beginnings(combined, self.guard(lambda: self._note(combined)))
            self._endings += [end, lambda: delattr(combined, "_begins_are_watched")]

    def _note(self, combined: Any) -> None:
        self._epoch_began = {
            "random": random_state(),
            "generators": generator_states(combined.flattened, self.run.trainer.lightning_module),
            "workers": [getattr(loader, "_iterator", None) is None for loader in combined.flattened],
            "held": self._changed_in_data(self.run.trainer.fit_loop)[0],
        }

    # -- what objects hold beside -----------------------------------------------------------------------------------

    def _changed_in_data(self, loop: Any) -> tuple[dict[str, Any], list[str]]:
        return (
            ({}, []) if self._data_before is None else held.changed(self._data_before, held.held_by_data(loop.trainer))
        )

    def _changed(self, loop: Any) -> tuple[dict[str, Any], list[str]]:
        """Return what has changed since the fit began, in the data and in the module."""
        values, lost = self._changed_in_data(loop)
        if self._module_before is not None:
            more, more_lost = held.changed(self._module_before, held.held(loop.trainer.lightning_module))
            values, lost = {**values, **more}, [*lost, *more_lost]
        return values, lost

    def _put_data(self, loop: Any, values: dict[str, Any]) -> None:
        """Make the data as the fit found them, but for what had changed."""
        if self._data_before is not None:
            held.go_back(held.held_by_data(loop.trainer), self._data_before, values)

    def _put_all(self, loop: Any, found: dict[str, Any]) -> None:
        if "held" not in found:
            return
        self._put_data(loop, {k: v for k, v in found["held"].items() if not _is_of_the_module(k)})
        if self._module_before is not None:
            module = loop.trainer.lightning_module
            own = {k: v for k, v in found["held"].items() if _is_of_the_module(k)}
            gone = held.go_back(held.held(module), self._module_before, own, module)
            if gone and self.run.first_to_say("gone"):
                warn("ExactResume", f"{listed(gone, 3)}: in the checkpoint, and not in this run.")

    def _tell_lost(self, run: TrainingRun, lost: list[str]) -> None:
        if not lost or not run.first_to_say("not exact"):
            return
        warn(
            "ExactResume",
            f"a run that is resumed from this checkpoint will not be the same: {listed(lost, 3)} changed while "
            "training, and cannot be saved. Save it in on_save_checkpoint, and load it in on_load_checkpoint.",
        )

    # -- a resume ---------------------------------------------------------------------------------------------------

    def _before_epoch(self, loop: Any) -> None:
        """Between two epochs, what comes before the data draws numbers too: hooks of the epoch's begin."""
        if self._module_before is None:
            self._module_before = held.held(loop.trainer.lightning_module)
        found = self._resuming
        if found is None:
            return
        _put_numbers(loop, found)
        self._put_all(loop, found)
        if not 0 < loop.epoch_loop.batch_progress.current.ready < loop.max_batches:  # else it comes after the batches
            self._make_up_for_validation(self.run, found)

    def _keep_numbers(self, loop: Any, fetcher: Any) -> None:
        """Put today's numbers back at the first batch: what Lightning does until then draws some, only on a resume."""
        generators = generator_states(loop._combined_loader.flattened, loop.trainer.lightning_module)
        today = {"now": random_state(), "generators": generators}
        usual = fetcher._start_profiler

        def first_fetch() -> None:
            fetcher._start_profiler = usual
            _put_numbers(loop, today)
            usual()

        fetcher._start_profiler = first_fetch

    def _make_up_for_validation(self, run: TrainingRun, found: dict[str, Any]) -> None:
        """Run the validation that was due when the checkpoint was saved: Lightning 2.6.6 leaves it out on a resume."""
        if not found["validation"]:
            return
        found["validation"] = False
        trainer, validation = run.trainer, run.trainer.fit_loop.epoch_loop.val_loop
        connector = trainer._logger_connector
        first, trainer.validating, validation.restarting = connector._first_loop_iter, True, False
        validation.run()
        trainer.training, connector._first_loop_iter = True, first

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Remember after which batch there was a validation."""
        if self._live is not None and not trainer.sanity_checking:
            self._validated = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def _find_place(self, loop: Any, fetcher: Any, found: dict[str, Any]) -> None:
        """Make the iterator as it was made, and pass over what was taken."""
        loaders = loop._combined_loader.flattened
        taken = loop.epoch_loop.batch_progress.current.ready
        if any(keeps_its_own_state(loader) for loader in loaders):
            return  # Lightning has put it where it was
        if not taken:
            iter(fetcher)  # Lightning made it before the hooks of the epoch's begin
            return
        reason = unrepeatable(loaders, cycled=loop._combined_loader._mode == "max_size_cycle")
        if reason is not None:
            raise UnsupportedError(
                f"ExactResume: the checkpoint is of the middle of an epoch, after {taken} batches, and {reason}. "
                "Save checkpoints between epochs, or use a loader with a state_dict (torchdata's StatefulDataLoader)."
            )
        began = found["began"]
        put_random_state(began["random"])
        if "held" in began:
            self._put_data(loop, began["held"])
        put_generator_states(loaders, began["generators"], loop.trainer.lightning_module)
        for loader, made in zip(loaders, began["workers"], strict=False):
            if made and outlives_epochs(loader):  # workers that went on from the epoch before draw no new seed
                begin_anew(loader)
        iter(fetcher)
        pass_over(fetcher.iterator, loaders, taken)

    # -- state --------------------------------------------------------------------------------------------------------

    def trick_state(self) -> dict[str, Any]:
        """Random states of every process; called on all of them."""
        run = self._live
        state = self._final if run is None else self._taken(run)
        if state:
            self._saved = list(state["ranks"][0]["gradients"])
        return state

    def _taken(self, run: TrainingRun) -> dict[str, Any]:
        trainer, loop = run.trainer, run.trainer.fit_loop
        in_window = bool(loop.epoch_loop._should_accumulate())
        values, lost = self._changed(loop)
        self._tell_lost(run, lost)
        own = {
            "now": random_state(),
            "generators": generator_states(loop._combined_loader.flattened, trainer.lightning_module),
            "held": values,
            "began": self._epoch_began,
            "batches": float(loop.max_batches),
            "seeds": seeds(loop._combined_loader.flattened),
            "validation": self._validation_is_due(loop),
            "in_window": in_window,
            "gradients": gradients(trainer.lightning_module) if in_window and self.gradients else {},
        }
        ranks: list[Any] = [own]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, own)
        return {"ranks": ranks}

    def _validation_is_due(self, loop: Any) -> bool:
        """Whether this batch is one after which Lightning validates, and it has not yet."""
        epoch, fetcher = loop.epoch_loop, loop._data_fetcher
        ready = epoch.batch_progress.total.ready
        return bool(ready and self._validated != ready and fetcher and epoch._should_check_val_fx(fetcher))

    @property
    def saved_gradients(self) -> list[str]:
        """Parameters whose gradients the last checkpoint of this fit holds: not empty in mid-window only."""
        return list(self._saved)

    def finished(self, run: TrainingRun) -> None:
        """Keep the state for a checkpoint that is saved after the fit."""
        self._final = self._taken(run)

    # -- Lightning's methods, for the time of a fit -------------------------------------------------------------------

    def stopped(self, run: TrainingRun) -> None:
        """Give Lightning its methods back."""
        self._end()

    def _end(self) -> None:
        while self._endings:
            self._endings.pop()()

    def _around(
        self, owner: Any, name: str, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
    ) -> None:
        method = getattr(owner, name)

        def around() -> None:
            if before is not None:
                self.guarded(before)
            method()
            if after is not None:
                self.guarded(after)

        self._replace(owner, name, around)

    def _replace(self, owner: Any, name: str, function: Callable[..., None]) -> None:
        self._endings.append(replaced(owner, name, function))


def _put_numbers(loop: Any, found: dict[str, Any]) -> None:
    put_random_state(found["now"])
    put_generator_states(loop._combined_loader.flattened, found["generators"], loop.trainer.lightning_module)


def _is_of_the_module(place: str) -> bool:
    return place.startswith("module") or not place  # (its parameters' flags have no place)
