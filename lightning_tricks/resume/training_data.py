"""What a resume would train twice, leave out or find changed, told from the training data. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_tricks.errors import listed
from lightning_tricks.resume.findings import Finding
from lightning_tricks.resume.writers import Writer, inside

_MOST_SHOWN = 8


@dataclass(frozen=True)
class Loader:
    """What is known of a loader of training data.

    Args:
        name: its class.
        stateful: whether it has ``state_dict`` and ``load_state_dict``.
        iterable: whether its data cannot be asked for their position.
        shuffled: whether its order is drawn at random, by a sampler whose state no checkpoint holds.
    """

    name: str = "DataLoader"
    stateful: bool = False
    iterable: bool = False
    shuffled: bool = False


@dataclass(frozen=True)
class Data:
    """The training data as they are when training starts.

    Args:
        loaders: one for each.
        updates: optimizer steps in an epoch; inf where nobody knows.
        exact: whether ``ExactResume`` is there.
        made_early: whether the loaders were made before a checkpoint's state could be put back.
    """

    loaders: tuple[Loader, ...] = field(default=())
    updates: float = float("inf")
    exact: bool = False
    made_early: bool = False


def repeated(data: Data, writers: Sequence[Writer]) -> list[Finding]:
    """Return which data a resume would train twice, leave out, or take in another order.

    Example:
        >>> for found in repeated(Data((Loader(),), updates=100), [Writer(every_n_steps=30, every_n_epochs=0)]):
        ...     print(found.what)
        a checkpoint every 30 steps falls inside an epoch, and DataLoader cannot resume there: the first batches are \
trained twice and the last ones never
    """
    writers = [writer for writer in writers if not writer.weights_only]
    moment = next((when for writer in writers if (when := inside(writer, data.updates))), "")
    findings = []
    lost = [x for x in data.loaders if not x.stateful and (x.iterable or not data.exact)]
    if moment and lost:
        what = (
            f"a checkpoint {moment} falls inside an epoch, and {lost[0].name} cannot resume there: the first batches "
            "are trained twice and the last ones never"
        )
        exact = "" if lost[0].iterable else "ExactResume(), "
        rest = "a loader with state_dict and load_state_dict (torchdata's StatefulDataLoader), or checkpoints at the"
        findings.append(Finding(what, f"Use {exact}{rest} ends of epochs"))
    if moment and data.made_early and any(loader.stateful for loader in data.loaders):
        what = (
            "the training loader was made before a checkpoint's state is put back, as estimated_stepping_batches in "
            "configure_optimizers does: a resume starts its epoch again"
        )
        findings.append(Finding(what, "Use LRSchedule, which counts when training starts, or count the steps yourself"))
    if writers and not data.exact and any(loader.shuffled for loader in data.loaders):
        what = (
            "the data are shuffled, and no checkpoint holds the random state: a resumed run takes them in another order"
        )
        findings.append(Finding(what, "Add ExactResume()"))
    return findings


def moving(places: Sequence[str], lost: Sequence[str], unfreezing: Sequence[str]) -> list[Finding]:
    """Return what changes while training and is in no checkpoint.

    Args:
        places: of what ``ExactResume`` would save.
        lost: places of what nobody can save.
        unfreezing: classes of callbacks that unfreeze parameters.

    Example:
        >>> print(moving(["loader 0.sampler"], [], [])[0])
        loader 0.sampler changes while training, and is in no checkpoint. Add ExactResume().
    """
    findings = []
    if places:
        verbs = ("changes", "is") if len(places) == 1 else ("change", "are")
        what = f"{listed(places, _MOST_SHOWN)} {verbs[0]} while training, and {verbs[1]} in no checkpoint"
        findings.append(Finding(what, "Add ExactResume()"))
    if lost:
        verb = "changes" if len(lost) == 1 else "change"
        what = f"{listed(lost, _MOST_SHOWN)} {verb} while training, and cannot be saved"
        findings.append(Finding(what, "Save what is needed in on_save_checkpoint, and load it in on_load_checkpoint"))
    for name in unfreezing:
        what = f"after a resume, {name} leaves frozen what it had unfrozen (Lightning #21901)"
        findings.append(Finding(what, "Add ExactResume(), which saves requires_grad"))
    return findings
