"""ExactResume: Lightning's loops on one side, random states and the data's position on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from lightning_tricks.errors import UnsupportedError, listed, message, require_flag
from lightning_tricks.lifecycle.lightning_internals import (
    DATA,
    LOADER_STATES,
    RESUME,
    combined_loader,
    data_fetcher,
    in_window,
    require,
)
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.resume import position, process_state
from lightning_tricks.resume.beginning import Beginning
from lightning_tricks.resume.loop_hooks import LoopHooks
from lightning_tricks.resume.replay import has_persistent_workers, on_iterator_start, put_seeds
from lightning_tricks.resume.state import gradients, put_gradients

_OWNER = "ExactResume"


@final
class ExactResume(Trick):
    """Make a resumed run the same run: bit-identical weights, as if it had not been interrupted.

    Lightning saves weights, optimizers and counters; this saves what is missing. The states of all random generators
    (Python, numpy, torch, of each device and each process; those held by the module, loaders, samplers and data sets),
    what else these hold and change while training (counters, orders that are shuffled in place, caches, deques, tensors
    that are not persistent buffers, ``requires_grad``), and the random state with which the epoch's data began. On a
    resume the epoch's order is made again from that, the batches that were taken are skipped (without loading them
    where one process loads in an order that is drawn at once), and the generators go on where they were. So shuffling,
    dropout and random augmentation go on as they would have, also with another seed.

    Exact at every update. In the middle of an accumulation window the gradients so far are lost, unless they are saved;
    a resume from there says so.

    Args:
        gradients: save the gradients in the middle of a window: exact at every batch. One process only.

    Raises:
        TypeError: ``gradients`` is not a bool.
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
        About 12 kB, and what has changed, up to 16 MiB a value; in mid-window with ``gradients=True`` also one gradient
        of each parameter. Of each further process only what differs from the first one: some bytes where all are
        seeded alike, 12 kB where they are not. The first process holds and writes it. A resume on another number of
        processes goes on with other numbers and other data, with a warning.

    Cost:
        One reading of the random states at the beginning of an epoch and at a checkpoint. On a resume with workers,
        custom samplers or several loaders: loading the batches that are skipped.

    Example:
        >>> from lightning_tricks import ExactResume
        >>> ExactResume(gradients=True).gradients
        True

    Reference: PyTorch, "Reproducibility"; torchdata, "Stateful DataLoader".
    """

    observer = True
    state_form = staticmethod(process_state.STATE)

    def __init__(self, gradients: bool = False) -> None:
        self.gradients = require_flag(_OWNER, "gradients", gradients)
        self._reset()

    def _reset(self) -> None:
        self._beginning = Beginning()
        self._hooks = LoopHooks(self.guarded)
        self._epoch_began: dict[str, Any] | None = None
        self._resuming: dict[str, Any] | None = None  # what the checkpoint holds, until the loop stands where it stood
        self._validated = 0  # batches before the last validation
        self._final: dict[str, Any] = {}
        self._saved: list[str] = []

    @property
    def saved_gradients(self) -> list[str]:
        """Parameters whose gradients the last checkpoint of this fit holds: not empty in mid-window only."""
        return list(self._saved)

    # -- a run begins -------------------------------------------------------------------------------------------------

    def _configure(self, run: TrainingRun) -> None:
        """Put functions where Lightning makes the iterator of an epoch, and where it continues one after a resume."""
        trainer, loop = run.trainer, run.trainer.fit_loop
        if self.gradients and trainer.world_size > 1:
            text = "gradients of each process would have to be saved"
            remedy = "Use gradients=False, and save checkpoints at updates"
            raise UnsupportedError(message(_OWNER, "gradients", True, text, remedy))
        require(trainer, _OWNER, (*DATA, *RESUME))
        self._hooks.end()
        self._hooks.around(loop, LOADER_STATES, after=lambda: self._watch(loop))
        self._hooks.around(loop, "on_advance_start", before=lambda: self._before_epoch(loop))
        usual = loop.epoch_loop.on_run_start

        def on_run_start(fetcher: Any) -> None:
            self._begin_or_continue_epoch(run, fetcher, usual)

        self._hooks.replace(loop.epoch_loop, "on_run_start", on_run_start)

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up what the checkpoint holds for this process."""
        trainer = run.trainer
        # (by name: the class is private)
        if type(data_fetcher(trainer.fit_loop)).__name__ == "_DataLoaderIterDataFetcher":
            raise UnsupportedError(
                "ExactResume: training_step takes the dataloader_iter, so nobody knows which batches it took. "
                "Let it take (batch, batch_idx)."
            )
        if any(has_persistent_workers(loader) for loader in combined_loader(trainer.fit_loop).flattened):
            warn(
                _OWNER,
                "persistent_workers=True: random numbers that are drawn in workers cannot be found again on a resume. "
                "Set it to False, or draw none there.",
            )
        if state:
            self._take_up(run, state)
        elif trainer.global_step > 0 and self._epoch_began is not None and trainer.fit_loop.restarting:
            warn(_OWNER, "the checkpoint holds no random state: this run continues with new random numbers.")

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        trainer, loop = run.trainer, run.trainer.fit_loop
        if (text := process_state.other_world(process_state.num_processes(state), trainer.world_size)) is not None:
            warn(_OWNER, text)
            return
        self._resuming = found = process_state.of_rank(state, trainer.global_rank)
        if (text := process_state.other_epoch(found["batches"], loop.max_batches)) is not None:
            warn(_OWNER, text)
        position.check_numbers(loop, found)
        if (text := process_state.lost_gradients(found)) is not None:
            warn(_OWNER, text)
        for checkpoint in trainer.checkpoint_callbacks:
            position.hold_back(checkpoint, trainer.global_step, self._hooks)
        # Lightning gives distributed samplers the seed of this start, which may be another one
        put_seeds(combined_loader(loop).flattened, found["seeds"])
        put_gradients(trainer.lightning_module, found["gradients"])

    # -- an epoch begins, or goes on ----------------------------------------------------------------------------------

    def _watch(self, loop: Any) -> None:
        """The loaders of the run are there, and their iterator comes next."""
        combined = combined_loader(loop)
        self._beginning.look_at_data(loop.trainer)
        if not hasattr(combined, "_begins_are_watched"):  # the loaders of a later epoch may be others
            combined._begins_are_watched = True
            self._hooks.at_end(on_iterator_start(combined, self.guard(lambda: self._note_beginning(combined))))
            self._hooks.at_end(lambda: delattr(combined, "_begins_are_watched"))

    def _note_beginning(self, combined: Any) -> None:
        trainer = self.run.trainer
        changed, _ = self._beginning.changed_in_data(trainer)
        self._epoch_began = position.beginning_of_epoch(combined, trainer.lightning_module, changed)

    def _before_epoch(self, loop: Any) -> None:
        """Between two epochs, what comes before the data draws numbers too: hooks at the beginning of an epoch."""
        self._beginning.look_at_module(loop.trainer.lightning_module)
        found = self._resuming
        if found is None:
            return
        position.put_numbers(loop, found)
        self._put_held(loop, found)
        if not 0 < loop.epoch_loop.batch_progress.current.ready < loop.max_batches:  # else it comes after the batches
            position.make_up_for_validation(loop.trainer, found)

    def _begin_or_continue_epoch(self, run: TrainingRun, fetcher: Any, usual: Callable[[Any], None]) -> None:
        """Stand where the checkpoint was saved, once; each later epoch begins as usual."""
        found, self._resuming = self._resuming, None  # (only the first epoch after a resume is continued)
        if found is None:
            usual(fetcher)
            return
        loop = run.trainer.fit_loop
        in_the_middle = loop.epoch_loop.batch_progress.current.ready > 0
        position.find_place(loop, fetcher, found, lambda values: self._beginning.put_data(loop.trainer, values))
        usual(fetcher)
        if in_the_middle:
            position.put_numbers(loop, found)
            self._put_held(loop, found)
            position.make_up_for_validation(run.trainer, found)
        position.keep_numbers(loop, fetcher)

    def _put_held(self, loop: Any, found: dict[str, Any]) -> None:
        gone = self._beginning.put(loop.trainer, found["held"]) if "held" in found else []
        if gone and self.run.common.first_to_say("gone"):
            warn(_OWNER, f"{listed(gone, 3)}: in the checkpoint, and not in this run.")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Remember after which batch there was a validation."""
        if self.live_run is not None and not trainer.sanity_checking:
            self._validated = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    # -- state --------------------------------------------------------------------------------------------------------

    def _trick_state(self) -> dict[str, Any]:
        """Random states of every process, on the one that writes checkpoints; called on all of them."""
        run = self.live_run
        state = self._final if run is None else self._state_of(run)
        if state:
            self._saved = list(state["ranks"][0]["gradients"])
        return state

    def _state_of(self, run: TrainingRun) -> dict[str, Any]:
        trainer, loop = run.trainer, run.trainer.fit_loop
        within = in_window(loop)
        values, lost = self._beginning.changed(trainer)
        self._warn_of_lost(run, lost)
        own = position.state_of(loop, held=values, began=self._epoch_began, validated=self._validated)
        own["in_window"] = within
        own["gradients"] = gradients(trainer.lightning_module) if within and self.gradients else {}
        return process_state.gathered(own, trainer.world_size)

    def _warn_of_lost(self, run: TrainingRun, lost: list[str]) -> None:
        if not lost or not run.common.first_to_say("not exact"):
            return
        warn(
            _OWNER,
            f"a run that is resumed from this checkpoint will not be the same: {listed(lost, 3)} changed while "
            "training, and cannot be saved. Save it in on_save_checkpoint, and load it in on_load_checkpoint.",
        )

    def _finished(self, run: TrainingRun) -> None:
        """Keep the state for a checkpoint that is saved after the fit."""
        self._final = self._state_of(run)

    def _cleanup(self, run: TrainingRun) -> None:
        """Give Lightning its methods back."""
        self._hooks.end()
