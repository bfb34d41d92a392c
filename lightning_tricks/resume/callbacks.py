"""ResumeGuard: what Lightning holds on one side, the pure checks of this room on the other."""

from __future__ import annotations

import math
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, final

from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import IterableDataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from lightning_tricks.errors import TrickError, in_one_line, require_choice
from lightning_tricks.lifecycle.horizon import updates_per_epoch
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick, defined_by_lightning, of_lightning
from lightning_tricks.modules.replaced import replaced
from lightning_tricks.resume import held, preflight
from lightning_tricks.resume.plugins import DurableCheckpointIO, local
from lightning_tricks.resume.preflight import Data, Finding, Loader, Writer
from lightning_tricks.resume.replay import keeps_its_own_state
from lightning_tricks.resume.state import generator_states

_SHUFFLED = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@final
class ResumeGuard(Trick):
    """Say before the first step what would break a later resume, each with its fix.

    A checkpoint that cannot be loaded is noticed when it is needed, after hours. This looks for:

    - values in callbacks, hyperparameters, schedulers and parameter groups that ``torch.load(weights_only=True)``
      refuses, named with their key path and type, e.g. ``['hyper_parameters']['root'] PosixPath``,
    - no checkpoint of the newest state: no checkpoint callback, ``save_last=True`` with ``save_top_k=0`` (nothing
      before the end) or with a monitor (a copy of the best), weights only,
    - a folder for temporary files on another filesystem than the checkpoints: a kill can tear them,
    - checkpoints inside an epoch with data that start anew, shuffling without ``ExactResume``, and a stateful loader
      that ``estimated_stepping_batches`` made before its state could be put back,
    - random generators, counters and orders of samplers and data sets, and Lightning's fine-tuning, without
      ``ExactResume``; with it, what it cannot save (iterators in progress, lists of objects),
    - SIGTERM, after which Lightning 2.6.6 ends with exit code 0: told as information, once for each run; no finding.

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
        Nothing; a resume with another mode goes on with the new one.

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
        self.reset()

    def reset(self) -> None:
        """Forget what was found."""
        self._findings: list[Finding] = []
        self._made_early = False
        self._data_before: held.Held | None = None
        self._module_before: held.Held | None = None
        self._put_back: Callable[[], None] | None = None
        self._due = self._due_at_checkpoint = False

    @property
    def findings(self) -> list[Finding]:
        """What would break a resume; empty before the first step."""
        return list(self._findings)

    # -- the run ------------------------------------------------------------------------------------------------

    def configure(self, run: TrainingRun) -> None:
        """Look at the data as they are before their first batch."""
        loop = run.trainer.fit_loop
        usual = loop._load_combined_loader_states
        self._end()

        def look() -> None:
            usual()
            if self._data_before is None:
                self._data_before = self.guarded(held.held_by_data, run.trainer)

        self._put_back = replaced(loop, "_load_combined_loader_states", look)

    def stopped(self, run: TrainingRun) -> None:
        """Give Lightning its method back."""
        self._end()

    def _end(self) -> None:
        put_back, self._put_back = self._put_back, None
        if put_back is not None:
            put_back()

    def assembled(self, run: TrainingRun) -> None:
        """Note whether the loaders are there already: their state will not be put back any more."""
        self._made_early = getattr(run.trainer.fit_loop, "_combined_loader", None) is not None

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Look before the first batch, when all callbacks have started."""
        self._findings = []
        self._due = self._due_at_checkpoint = not (run.trainer.fast_dev_run or run.trainer.barebones)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Look, once."""
        if self._due and self._live is not None:
            self._due = False
            self._or_leave(lambda: self._tell(trainer))

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Look at the first checkpoint, without the weights. Training is under way, so nothing is raised."""
        if self._due_at_checkpoint and not self._due:
            self._due_at_checkpoint = False
            rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
            known = {finding.what for finding in self._findings}
            found = self._safely("checkpoint", lambda: preflight.unloadable(rest))
            found = [finding for finding in found if finding.what not in known]
            changes = self._safely("changes", lambda: self._changed_in(pl_module, _is_exact(trainer)))
            self._findings += [*found, *changes]
            if changes:
                warn("ResumeGuard", f"a run that is resumed from here will be another:{_lines(changes)}")
            if found:
                warn("ResumeGuard", "the checkpoint that is being written will not load:" + _lines(found))

    def _tell(self, trainer: Any) -> None:
        found = self._look(trainer)
        if self.mode == "raise":  # rank 0 writes the checkpoints: all processes go by what it found
            found = trainer.strategy.broadcast(found)
        self._findings = found
        if found and self.mode == "raise":
            raise TrickError(f"ResumeGuard(mode='raise'): this would break a later resume:{_lines(found)}")
        if found:
            warn("ResumeGuard", f"this would break a later resume:{_lines(found)}")
        if _ends_with_zero() and self.run.first_to_say("SIGTERM"):  # every run has it: no reason to end one
            rank_zero_info(f"ResumeGuard: {preflight.SIGTERM}")

    # -- looking ------------------------------------------------------------------------------------------------

    def _look(self, trainer: Any) -> list[Finding]:
        # one that fails hides no other; all processes ask callbacks for their state, which some gather from all
        writers = [_writer(c, trainer) for c in trainer.checkpoint_callbacks if hasattr(c, "save_top_k")]
        others = len(writers) < len(trainer.checkpoint_callbacks)
        return [
            *self._safely("state", lambda: preflight.unloadable(self._states(trainer))),
            *self._safely("checkpoint callbacks", lambda: preflight.written(writers, others=others)),
            *self._safely("folders", lambda: _folders(trainer)),
            *self._safely("data", lambda: preflight.repeated(self._data(trainer), writers)),
            *self._safely("what changes", lambda: self._changing(trainer)),
        ]

    def _changing(self, trainer: Any) -> list[Finding]:
        """Return what moves on while training and is in no checkpoint, as far as the first batch shows it."""
        exact, module = _is_exact(trainer), trainer.lightning_module
        self._module_before = held.held(module)
        moving, lost = dict[str, Any](), list(self._module_before.lost)
        if self._data_before is not None:
            moving, more = held.changed(self._data_before, held.held_by_data(trainer))
            lost += more
            self._data_before = None
            self._end()
        loaders = trainer.fit_loop._combined_loader.flattened
        moving.update(dict.fromkeys(generator_states([x for x in loaders if not keeps_its_own_state(x)], module)))
        unfreezing = [
            type(c).__name__
            for c in trainer.callbacks
            if any(cls.__name__ == "BaseFinetuning" for cls in type(c).__mro__)
        ]
        return preflight.moving([] if exact else list(moving), lost, [] if exact else unfreezing)

    def _changed_in(self, module: Any, exact: bool) -> list[Finding]:
        """Return what the steps have changed: tensors and arrays. Of counters only the module knows what they mean."""
        if self._module_before is None or not defined_by_lightning(module, "on_save_checkpoint"):
            return []
        now = held.held(module)
        values, lost = held.changed(self._module_before, now)
        own = [
            f"{place}.{name}"
            for place, named in values.items()
            if place and not _is_a_librarys(now.owners[place])
            for name, value in named.items()
            if held.is_numeric(value)
        ]
        return preflight.moving([] if exact else own, [x for x in lost if x not in self._module_before.lost], [])

    def _safely(self, what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
        try:
            return look()
        except Exception as error:
            text = f"{type(error).__name__}: {in_one_line(error)}"
            warn("ResumeGuard", f"{what} could not be checked ({text}). Training goes on.")
            return []

    def _states(self, trainer: Any) -> dict[str, Any]:
        """Return what a checkpoint would hold, without weights and optimizer moments, under its keys."""
        states: dict[str, Any] = {"callbacks": {}}
        for callback in trainer.callbacks:
            states["callbacks"][callback.state_key] = callback.state_dict()
        for source in (trainer.lightning_module, trainer.datamodule):
            if source is not None and source.hparams:
                plain = not type(source.hparams).__module__.startswith("omegaconf")  # Lightning keeps those as they are
                states[source.CHECKPOINT_HYPER_PARAMS_KEY] = dict(source.hparams) if plain else source.hparams
        states["lr_schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        states["optimizer_states"] = [
            {"param_groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]}
            for optimizer in trainer.optimizers
        ]
        return states

    def _data(self, trainer: Any) -> Data:
        combined = trainer.fit_loop._combined_loader
        loaders = tuple(_loader(loader) for loader in combined.flattened) if combined is not None else ()
        exact = _is_exact(trainer)
        updates = updates_per_epoch(trainer)
        steps = math.inf if updates is None else updates * max(1, len(trainer.optimizers))
        return Data(loaders, steps, exact, self._made_early)


def _lines(findings: list[Finding]) -> str:
    return "".join(f"\n- {finding}" for finding in findings)


def _writer(callback: Any, trainer: Any) -> Writer:
    interval = _setting(callback, "train_time_interval")
    batches, validation = trainer.num_training_batches, trainer.val_check_batch
    validates = any(n > 0 for n in trainer.num_val_batches) if trainer.enable_validation else False
    within = validation is None or validation < batches
    return Writer(
        save_last=bool(_setting(callback, "save_last")),
        save_top_k=_setting(callback, "save_top_k", 1),
        monitor=_setting(callback, "monitor"),
        every_n_steps=_setting(callback, "every_n_train_steps") or 0,
        every_n_epochs=_setting(callback, "every_n_epochs") or 0,
        interval="" if interval is None else str(interval),
        on_exception=bool(_setting(callback, "save_on_exception")),
        weights_only=bool(_setting(callback, "save_weights_only")),
        after_validation=validates and within and _setting(callback, "save_on_train_epoch_end") is not True,
    )


def _setting(callback: Any, argument: str, default: Any = None) -> Any:
    """Return what a checkpoint callback was told; it keeps it with an underscore before, or without, by version."""
    found = (getattr(callback, name) for name in (f"_{argument}", argument) if hasattr(callback, name))
    return next(found, default)


def _loader(loader: Any) -> Loader:
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    return Loader(
        name=type(loader).__name__,
        stateful=keeps_its_own_state(loader),
        iterable=dataset is None or isinstance(dataset, IterableDataset),
        shuffled=isinstance(sampler, _SHUFFLED),
    )


def _folders(trainer: Any) -> list[Finding]:
    strategy = trainer.strategy
    plugin = strategy.checkpoint_io
    while hasattr(plugin, "checkpoint_io"):  # Lightning's asynchronous plugin, around another
        plugin = plugin.checkpoint_io
    sharded = getattr(strategy, "_save_distributed_checkpoint", False) is True
    folders = sorted({str(c.dirpath) for c in trainer.checkpoint_callbacks if getattr(c, "dirpath", None)})
    found: list[Finding] = []
    for folder in folders:
        path = local(folder)
        if isinstance(plugin, DurableCheckpointIO):
            found += preflight.durable(folder, remote=path is None, sharded=sharded)
        elif type(plugin).__name__ == "TorchCheckpointIO" and path is not None and not sharded:
            found += preflight.torn(Path(tempfile.gettempdir()), path)
    return found


def _ends_with_zero() -> bool:
    """Whether Lightning's handler of SIGTERM is installed, and its exception still has no exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    return type(handler).__name__ == "_HandlersCompose" and not SIGTERMException().code


def _is_exact(trainer: Any) -> bool:
    return any(type(callback).__name__ == "ExactResume" for callback in trainer.callbacks)


def _is_a_librarys(owner: Any) -> bool:
    return of_lightning(type(owner)) or type(owner).__module__.split(".")[0] in ("torch", "torchmetrics")
