"""Where a run is: random numbers, the place in the data, a validation that is due. Lightning's loops are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_tricks.errors import TrickError, UnsupportedError
from lightning_tricks.lifecycle.lightning_internals import (
    before_first_fetch,
    combined_loader,
    first_loop_iteration,
    loader_mode,
    put_first_loop_iteration,
    validates_now,
)
from lightning_tricks.numerics.torch_internals import loader_iterator, shut_down_iterator
from lightning_tricks.resume.held import check
from lightning_tricks.resume.loop_hooks import LoopHooks
from lightning_tricks.resume.replay import (
    has_persistent_workers,
    keeps_its_own_state,
    seeds,
    skip_batches,
    unrepeatable,
)
from lightning_tricks.resume.state import generator_states, put_generator_states, put_random_state, random_state

Found = dict[str, Any]  # what a checkpoint holds for a process; its form is in ``process_state.py``


def state_of(loop: Any, *, held: Found, began: Found | None, validated: int) -> Found:
    """Return where a run is, for a checkpoint.

    Args:
        held: what has changed since the fit began.
        began: what the iterator of the epoch began with.
        validated: after how many batches there was a validation last.
    """
    loaders = combined_loader(loop).flattened
    return {
        "now": random_state(),
        "generators": generator_states(loaders, loop.trainer.lightning_module),
        "held": held,
        "began": began,
        # (a float: of data without a length it is inf)
        "batches": float(loop.max_batches),
        "seeds": seeds(loaders),
        "validation": validation_is_due(loop, validated),
    }


# -- random numbers ---------------------------------------------------------------------------------------------------


def put_numbers(loop: Any, found: Found) -> None:
    """Put the random numbers of a checkpoint into all generators."""
    put_random_state(found["now"])
    put_generator_states(combined_loader(loop).flattened, found["generators"], loop.trainer.lightning_module)


def check_numbers(loop: Any, found: Found) -> None:
    """Put the saved numbers into the generators and today's back, so that what does not fit is told now, by name."""
    loaders, module = combined_loader(loop).flattened, loop.trainer.lightning_module
    today, generators = random_state(), generator_states(loaders, module)
    try:
        for numbers in (found["now"], (found["began"] or {}).get("random", today)):
            put_random_state(numbers)
        put_generator_states(loaders, found["generators"], module)
        check(found.get("held", {}))
        check((found["began"] or {}).get("held", {}))
    except Exception as error:
        raise TrickError(
            f"ExactResume: the random state in the checkpoint cannot be used ({type(error).__name__}). "
            "Resume without ExactResume, or start from scratch."
        ) from error
    finally:
        put_random_state(today)
        put_generator_states(loaders, generators, module)


def keep_numbers(loop: Any, fetcher: Any) -> None:
    """Put today's numbers back at the first batch: what Lightning does until then draws some, only on a resume."""
    generators = generator_states(combined_loader(loop).flattened, loop.trainer.lightning_module)
    today = {"now": random_state(), "generators": generators}
    before_first_fetch(fetcher, lambda: put_numbers(loop, today))


# -- the place in the data --------------------------------------------------------------------------------------------


def beginning_of_epoch(combined: Any, module: Any, changed: dict[str, Any]) -> dict[str, Any]:
    """Return what the iterator of an epoch begins with, just before it is made."""
    return {
        "random": random_state(),
        "generators": generator_states(combined.flattened, module),
        "workers": [loader_iterator(loader) is None for loader in combined.flattened],
        "held": changed,
    }


def find_place(loop: Any, fetcher: Any, found: Found, put_data: Callable[[dict[str, Any]], None]) -> None:
    """Make the iterator as it was made, and skip the batches that were taken.

    Args:
        put_data: makes the data as they were at the beginning of the epoch.

    Raises:
        UnsupportedError: the data cannot be asked for their position.
    """
    loaders = combined_loader(loop).flattened
    taken = loop.epoch_loop.batch_progress.current.ready
    if any(keeps_its_own_state(loader) for loader in loaders):
        return  # Lightning has put it where it was
    if not taken:
        iter(fetcher)  # Lightning made it before the hooks at the beginning of the epoch
        return
    reason = unrepeatable(loaders, cycled=loader_mode(combined_loader(loop)) == "max_size_cycle")
    if reason is not None:
        raise UnsupportedError(
            f"ExactResume: the checkpoint is of the middle of an epoch, after {taken} batches, and {reason}. "
            "Save checkpoints between epochs, or use a loader with a state_dict (torchdata's StatefulDataLoader)."
        )
    began = found["began"]
    put_random_state(began["random"])
    if "held" in began:
        put_data(began["held"])
    put_generator_states(loaders, began["generators"], loop.trainer.lightning_module)
    for loader, made in zip(loaders, began["workers"], strict=False):
        if made and has_persistent_workers(loader):  # workers that went on from the epoch before draw no new seed
            shut_down_iterator(loader)
    iter(fetcher)
    skip_batches(fetcher.iterator, loaders, taken)


# -- validation and checkpoints ---------------------------------------------------------------------------------------


def validation_is_due(loop: Any, validated: int) -> bool:
    """Whether this batch is one after which Lightning validates, and it has not yet."""
    ready = loop.epoch_loop.batch_progress.total.ready
    return bool(ready and validated != ready and validates_now(loop))


def make_up_for_validation(trainer: Any, found: Found) -> None:
    """Run the validation that was due when the checkpoint was saved: Lightning 2.6.6 leaves it out on a resume."""
    if not found["validation"]:
        return
    found["validation"] = False  # two places ask, depending on where in the epoch the checkpoint was saved
    validation, first = trainer.fit_loop.epoch_loop.val_loop, first_loop_iteration(trainer)
    # (a loop that restarts would pass over the batches that the checkpoint says are done)
    trainer.validating, validation.restarting = True, False
    validation.run()
    trainer.training = True
    put_first_loop_iteration(trainer, first)


def hold_back(checkpoint: Any, resumed_at: int, hooks: LoopHooks) -> None:
    """Keep a ModelCheckpoint from saving before the first update.

    Lightning 2.6.6's has forgotten that it saved at this step, and where updates are due only every n-th batch, it
    would write over the good checkpoint one of the middle of a window.

    Args:
        checkpoint: any checkpoint callback; others than ModelCheckpoint are left alone.
    """
    usual = checkpoint.on_train_batch_end

    def on_train_batch_end(trainer: Any, *rest: Any, **more: Any) -> None:
        if trainer.global_step != resumed_at:
            usual(trainer, *rest, **more)

    # (by name: each of Lightning's two namespaces has one)
    if any(cls.__name__ == "ModelCheckpoint" for cls in type(checkpoint).__mro__):
        hooks.replace(checkpoint, "on_train_batch_end", on_train_batch_end)
