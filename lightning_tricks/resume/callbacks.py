"""ResumeGuard: what Lightning holds on one side, the pure checks of this package on the other."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Literal, final

from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_tricks.errors import TrickError, in_one_line, require_choice
from lightning_tricks.lifecycle.lightning_internals import LOADER_STATES, combined_loader, resumes_weights_only
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick, or_leave
from lightning_tricks.modules.replaced import replaced
from lightning_tricks.resume import changes, held, trainer_facts
from lightning_tricks.resume.findings import SIGTERM, Finding, lines
from lightning_tricks.resume.training_data import repeated
from lightning_tricks.resume.unloadable import unloadable
from lightning_tricks.resume.writers import written


@final
class ResumeGuard(Trick):
    """Say before the first step what would break a later resume, each with its fix.

    A checkpoint that cannot be loaded is noticed when it is needed, after hours. This looks for:

    - where a resume loads with ``weights_only=True`` (since Lightning 2.6): values in callbacks, hyperparameters,
      schedulers and parameter groups that this refuses, named with their key path and type, e.g.
      ``['hyper_parameters']['root'] PosixPath``,
    - no checkpoint of the newest state: no checkpoint callback, ``save_last=True`` with ``save_top_k=0`` (nothing
      before the end) or with a monitor (a copy of the best), weights only,
    - a folder for temporary files on another filesystem than the checkpoints: a kill can tear them,
    - checkpoints inside an epoch with data that start over, shuffling without ``ExactResume``, a stateful loader
      that ``estimated_stepping_batches`` made before its state could be put back,
    - random generators, counters and orders of samplers and data sets, and Lightning's fine-tuning, without
      ``ExactResume``; with it, what it cannot save (iterators in progress, lists of objects),
    - SIGTERM, after which Lightning up to 2.6 ends with exit code 0: told as information once a run; no finding.

    It looks again at the first checkpoint, since states may grow while training; then it warns in both modes.

    Args:
        mode: ``"warn"`` or ``"raise"``: one error with all findings, before the first step.

    Raises:
        ValueError: ``mode`` is unknown.
        TrickError: before the first step, with ``mode="raise"``, something was found.

    Logs:
        Nothing. ``.findings`` has what was found, each with ``.what`` and ``.fix``.

    Changes:
        Nothing. It calls ``state_dict()`` of callbacks, as a checkpoint does, and never ``on_save_checkpoint``.

    State:
        Nothing but its mode; a resume with another one goes on with the new one, and says so.

    Cost:
        Milliseconds before the first step and at the first checkpoint, nothing while training. Weights are not
        serialised. ``mode="raise"`` on several processes: one broadcast.

    Example:
        >>> from lightning_tricks import ResumeGuard
        >>> ResumeGuard(mode="raise").findings
        []

    Reference: PyTorch, "Serialization semantics", torch.load with weights_only=True.
    """

    observer = True

    def __init__(self, mode: Literal["warn", "raise"] = "warn") -> None:
        self.mode = require_choice("ResumeGuard", "mode", mode, ("warn", "raise"))
        self._reset()

    def _reset(self) -> None:
        self._findings: list[Finding] = []
        self._made_early = False
        self._data_before: held.Held | None = None
        self._module_before: held.Held | None = None
        self._put_back: Callable[[], None] | None = None
        self._due = self._due_at_checkpoint = False
        self._strict = True  # whether a resume refuses classes that torch does not know, as since Lightning 2.6

    @property
    def findings(self) -> list[Finding]:
        """What would break a resume; empty before the first step."""
        return list(self._findings)

    # -- the run ------------------------------------------------------------------------------------------------------

    def _configure(self, run: TrainingRun) -> None:
        """Look at the data as they are before their first batch."""
        loop = run.trainer.fit_loop
        usual = getattr(loop, LOADER_STATES)
        self._end()

        def look() -> None:
            usual()
            if self._data_before is None:
                self._data_before = self.guarded(held.held_by_data, run.trainer)

        self._put_back = replaced(loop, LOADER_STATES, look)

    def _cleanup(self, run: TrainingRun) -> None:
        """Give Lightning its method back."""
        self._end()

    def _end(self) -> None:
        put_back, self._put_back = self._put_back, None
        if put_back is not None:
            put_back()

    def _on_optimizers_created(self, run: TrainingRun) -> None:
        """Note whether the loaders are there already: their state will not be put back any more."""
        self._made_early = combined_loader(run.trainer.fit_loop) is not None

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Look before the first batch, when all callbacks have started."""
        self._findings = []
        self._strict = resumes_weights_only()
        self._due = self._due_at_checkpoint = not (run.trainer.fast_dev_run or run.trainer.barebones)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Look, once."""
        if self._due and self.live_run is not None:
            self._due = False
            or_leave(self, lambda: self._tell(trainer))

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Look at the first checkpoint, without the weights. Training is under way, so nothing is raised."""
        if not self._due_at_checkpoint or self._due:
            return
        self._due_at_checkpoint = False
        # (the weights are tensors, which load, and most of the checkpoint)
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        known, exact = {finding.what for finding in self._findings}, trainer_facts.is_exact(trainer)
        found = _safely("checkpoint", lambda: unloadable(rest)) if self._strict else []
        found = [finding for finding in found if finding.what not in known]
        changed = _safely("changes", lambda: changes.at_checkpoint(pl_module, self._module_before, exact=exact))
        self._findings += [*found, *changed]
        if changed:
            warn("ResumeGuard", f"a run that is resumed from here will not be the same:{lines(changed)}")
        if found:
            warn("ResumeGuard", "the checkpoint that is being written will not load:" + lines(found))

    def _tell(self, trainer: Any) -> None:
        found = self._look(trainer)
        if self.mode == "raise":  # rank 0 writes the checkpoints: all processes go by what it found
            found = trainer.strategy.broadcast(found)
        self._findings = found
        if found and self.mode == "raise":
            raise TrickError(f"ResumeGuard(mode='raise'): this would break a later resume:{lines(found)}")
        if found:
            warn("ResumeGuard", f"this would break a later resume:{lines(found)}")
        if _ends_with_zero() and self.run.common.first_to_say("SIGTERM"):  # every run has it: no reason to end one
            rank_zero_info(f"ResumeGuard: {SIGTERM}")

    def _look(self, trainer: Any) -> list[Finding]:
        # one that fails hides no other; all processes ask callbacks for their state, which some gather from all
        callbacks, early = trainer.checkpoint_callbacks, self._made_early
        writers = [trainer_facts.writer_of(c, trainer) for c in callbacks if hasattr(c, "save_top_k")]
        others = len(writers) < len(callbacks)
        return [
            *(_safely("state", lambda: unloadable(trainer_facts.states_of(trainer))) if self._strict else []),
            *_safely("checkpoint callbacks", lambda: written(writers, others=others)),
            *_safely("folders", lambda: trainer_facts.torn_folders(trainer)),
            *_safely("data", lambda: repeated(trainer_facts.data_of(trainer, made_early=early), writers)),
            *_safely("what changes", lambda: self._changing(trainer)),
        ]

    def _changing(self, trainer: Any) -> list[Finding]:
        """Return what moves on while training and is in no checkpoint, as far as the first batch shows it."""
        self._module_before = held.held(trainer.lightning_module)
        before, self._data_before = self._data_before, None
        found = changes.at_first_batch(trainer, before, self._module_before)
        if before is not None:
            self._end()
        return found


def _safely(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Exception as error:
        text = f"{type(error).__name__}: {in_one_line(error)}"
        warn("ResumeGuard", f"{what} could not be checked ({text}). Training goes on.")
        return []


def _ends_with_zero() -> bool:
    """Whether Lightning's handler of SIGTERM is installed, and its exception still has no exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    # (by its private name: Lightning wraps the handlers that it finds. After 2.6.6 the exit code is 143, #21623)
    return type(handler).__name__ == "_HandlersCompose" and not SIGTERMException().code
