"""Run user code in mid-training without a trace: a look at one batch, a sample of a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.dry_run.places import SHORT
from lightning_tricks.dry_run.roots import roots_of
from lightning_tricks.dry_run.snapshot import Snapshot, taken
from lightning_tricks.dry_run.training_step import loggers_kept_silent, original_step, step_arguments
from lightning_tricks.errors import NotRestorableError
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.shards import on_any_rank
from lightning_tricks.numerics.trees import tree_map


@contextmanager
def isolated(run: TrainingRun, batch: Any = None, *, together: bool = False) -> Iterator[Snapshot]:
    """Undo whatever happens inside: in the module, its globals, the batch, what ``self.trainer`` leads to, the loggers.

    Gives the snapshot. After the first refusal or damage in a run nothing is tried again.

    Args:
        batch: what the module gets, and might write to.
        together: whether all processes do this now: then all are refused where one is, and none waits for another.

    Raises:
        NotRestorableError: before anything has run: the module holds something that cannot be put back.
    """
    trainer = run.trainer
    with loggers_kept_silent(trainer):
        snapshot = _taken(run, batch, together)
        try:
            with snapshot:
                try:
                    yield snapshot
                finally:
                    _reshard(trainer.lightning_module)
        finally:
            report_damage(run, snapshot)


def _taken(run: TrainingRun, batch: Any, together: bool) -> Snapshot:
    trainer = run.trainer
    snapshot: Snapshot | None = None
    if run.no_dry_runs is None:
        try:
            snapshot = taken(lambda: roots_of(trainer, {"batch": batch}), limits=SHORT)
        except NotRestorableError as error:
            run.no_dry_runs = error.what
    if together and trainer.world_size > 1 and on_any_rank([snapshot is None], trainer.strategy.root_device)[0]:
        run.no_dry_runs = run.no_dry_runs or "the module on another process cannot be put back"
    if snapshot is None or run.no_dry_runs is not None:
        raise NotRestorableError(run.no_dry_runs or "")
    return snapshot


def _reshard(module: Any) -> None:
    """Let sharded modules (FSDP2) free what a forward pass without a backward pass leaves gathered."""
    for part in module.modules():
        if any(cls.__name__ == "FSDPModule" for cls in type(part).__mro__):
            part.reshard()


def report_damage(run: TrainingRun, snapshot: Snapshot) -> None:
    """Say what could not be put back, once, and allow no more dry runs in this run."""
    places = snapshot.damage()
    if places:
        run.no_dry_runs = f"{places[0]} could not be put back"
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        warn(
            "lightning_tricks",
            f"a dry run of this module changed {places[0]}{more}, which could not be put back. This run makes no more "
            "dry runs. Please report this module's class as a bug.",
        )


def step_again(
    run: TrainingRun,
    batch: Any,
    batch_idx: int,
    *,
    evaluate: bool = False,
    gradients: bool = False,
    together: bool = False,
    before: Callable[[], Any] | None = None,
) -> Any:
    """Run the module's own ``training_step`` on a batch, without a trace; return its output, detached.

    Args:
        run: of a module that optimizes automatically.
        batch: on the right device already.
        batch_idx: given to a ``training_step`` that takes one, by position.
        gradients: with gradients enabled, as in training; some operations compute in another order then. Where it
            fails without, it is tried once more with: a step may differentiate by its inputs.
        together: whether all processes do this now.
        before: called first, inside.

    Raises:
        NotRestorableError: the module holds something that cannot be put back; nothing has run.
    """
    trainer = run.trainer
    module = trainer.lightning_module
    step = original_step(module)
    with isolated(run, batch, together=together) as snapshot:

        def look(gradients: bool) -> Any:
            if before is not None:
                before()
            if evaluate:
                module.eval()
            with torch.set_grad_enabled(gradients), trainer.precision_plugin.train_step_context():
                return step(*step_arguments(step, batch, batch_idx))

        try:
            output = look(gradients)
        except Exception:
            if gradients:
                raise
            # ``training_step`` may need a graph itself, as for a gradient penalty: the second try has one.
            snapshot.restore()
            output = look(True)
        kept = tree_map(copied, output)  # (it may share memory with what is put back)
        del output  # (nor may its graph hold tensors that are made leaves again)
        return kept


def copied(value: Any) -> Any:
    """Return a tensor's values in memory of their own, detached; anything else as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value
