"""What has changed while training and is in no checkpoint, as far as looking at a run shows it."""

from __future__ import annotations

from typing import Any

from lightning_tricks.lifecycle.lightning_internals import combined_loader
from lightning_tricks.lifecycle.namespaces import defined_by_lightning, of_lightning
from lightning_tricks.resume import held
from lightning_tricks.resume.encoding import is_numeric
from lightning_tricks.resume.findings import Finding
from lightning_tricks.resume.held import Held
from lightning_tricks.resume.replay import keeps_its_own_state
from lightning_tricks.resume.state import generator_states
from lightning_tricks.resume.trainer_facts import is_exact, unfreezing_callbacks
from lightning_tricks.resume.training_data import moving


def at_first_batch(trainer: Any, data: Held | None, module: Held) -> list[Finding]:
    """Return what the first batch has moved, and what holds random numbers.

    Args:
        data: what the loaders held before; None where nobody looked.
    """
    exact = is_exact(trainer)
    moved, lost = dict[str, Any](), list(module.lost)
    if data is not None:
        moved, more = held.changed(data, held.held_by_data(trainer))
        lost += more
    loaders = [x for x in combined_loader(trainer.fit_loop).flattened if not keeps_its_own_state(x)]
    moved.update(dict.fromkeys(generator_states(loaders, trainer.lightning_module)))
    return moving([] if exact else list(moved), lost, [] if exact else unfreezing_callbacks(trainer))


def at_checkpoint(module: Any, before: Held | None, *, exact: bool) -> list[Finding]:
    """Return what the steps have changed: tensors and arrays. Of counters only the module knows what they mean.

    Args:
        module: the LightningModule; one that saves something itself is left alone.
        before: what it held at the first batch; None where nobody looked.
    """
    if before is None or not defined_by_lightning(module, "on_save_checkpoint"):
        return []
    now = held.held(module)
    values, lost = held.changed(before, now)
    own = [
        f"{place}.{name}"
        for place, named in values.items()
        # (only ``requires_grad`` has no place, and a library knows what its own tensors are for)
        if place and not _is_a_librarys(now.owners[place])
        for name, value in named.items()
        if is_numeric(value)
    ]
    # (what was lost then was told at the first batch)
    return moving([] if exact else own, [x for x in lost if x not in before.lost], [])


def _is_a_librarys(owner: Any) -> bool:
    return of_lightning(type(owner)) or type(owner).__module__.split(".")[0] in ("torch", "torchmetrics")
