"""What a killed run would leave on the disk, told from what its checkpoint callbacks were told. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_tricks.resume.findings import Finding


@dataclass(frozen=True)
class Writer:
    """What a ``ModelCheckpoint`` was told.

    Args:
        save_last: whether it writes ``last.ckpt``.
        save_top_k: how many it keeps; -1 for all.
        monitor: the metric that decides which, or None.
        every_n_steps: updates between two checkpoints, or 0.
        every_n_epochs: epochs between two checkpoints, or 0.
        interval: time between two checkpoints, as text, or empty.
        on_exception: whether it writes when training fails.
        weights_only: whether it leaves out all but the weights.
        after_validation: whether a validation within the epoch makes it write.
        last_always: whether ``last.ckpt`` is written where no other checkpoint is, as before Lightning 2.6.
    """

    save_last: bool = False
    save_top_k: int = 1
    monitor: str | None = None
    every_n_steps: int = 0
    every_n_epochs: int = 1
    interval: str = ""
    on_exception: bool = False
    weights_only: bool = False
    after_validation: bool = False
    last_always: bool = False

    @property
    def by_steps(self) -> bool:
        """Whether it writes by steps or time: then ``last.ckpt`` does not wait for the best."""
        return self.every_n_steps > 0 or bool(self.interval)

    @property
    def keeps_newest(self) -> bool:
        """Whether the state of not long ago is on the disk at any time."""
        all_of_them = self.save_top_k == -1 or (self.monitor is None and self.save_top_k != 0)
        when = self.by_steps or self.every_n_epochs > 0
        return (
            not self.weights_only and when and (all_of_them or (self.save_last and (self.by_steps or self.last_always)))
        )


def written(writers: Sequence[Writer], *, others: bool = False) -> list[Finding]:
    """Return why a killed run would leave no checkpoint of its newest state.

    Args:
        others: whether there are checkpoint callbacks of other classes, of which nothing is known.

    Example:
        >>> print(written([Writer(save_last=True, save_top_k=0)])[0].what)
        ModelCheckpoint(save_last=True, save_top_k=0) writes nothing before training ends: a kill leaves no checkpoint
        >>> written([Writer()])
        []
    """
    if not writers and not others:
        return [Finding("no checkpoint callback: a killed run leaves no checkpoint", "Add ModelCheckpoint()")]
    findings = [found for writer in writers if (found := _misleading(writer)) is not None]
    if writers and not findings and not others and not any(writer.keeps_newest for writer in writers):
        best = any(writer.monitor is not None and writer.save_top_k for writer in writers)
        what = "only the best state is kept: a resume goes back to it" if best else "nothing is written while training"
        findings.append(Finding(f"no ModelCheckpoint keeps the newest state; {what}", "Add ModelCheckpoint()"))
    return findings


def _misleading(writer: Writer) -> Finding | None:
    if writer.weights_only:
        what = "ModelCheckpoint(save_weights_only=True) leaves out optimizers and counters: a resume from it is refused"
        return Finding(what, "Use save_weights_only=False, or another ModelCheckpoint() for resuming")
    if writer.save_top_k == 0 and not writer.save_last and not writer.on_exception:
        return Finding("ModelCheckpoint(save_top_k=0) writes nothing", "Use save_top_k=1")
    if not writer.save_last or writer.by_steps or writer.last_always:
        return None
    remedy = "Use ModelCheckpoint(save_last=True) without monitor, beside the one with monitor; or every_n_train_steps="
    if writer.save_top_k == 0:
        call = "ModelCheckpoint(save_last=True, save_top_k=0)"
        what = f"{call} writes nothing before training ends: a kill leaves no checkpoint"
        return Finding(what, "Use save_top_k=1 without monitor, or every_n_train_steps=")
    if writer.monitor is not None and writer.save_top_k == 1:
        call = f"ModelCheckpoint(save_last=True, monitor={writer.monitor!r})"
        return Finding(f"with {call} last.ckpt is a copy of the best checkpoint, not the last", remedy)
    if writer.monitor is not None and writer.save_top_k > 1:
        call = f"ModelCheckpoint(save_last=True, monitor={writer.monitor!r}, save_top_k={writer.save_top_k})"
        what = f"with {call} last.ckpt is the newest of the {writer.save_top_k} best, not the last"
        return Finding(what, remedy)
    return None


def inside(writer: Writer, updates: float) -> str:
    """Return when a callback writes in the middle of an epoch; empty when it does not."""
    if writer.every_n_steps and (updates == float("inf") or writer.every_n_steps % max(1, int(updates))):
        return f"every {writer.every_n_steps} steps"
    if writer.interval:
        return f"every {writer.interval}"
    if writer.every_n_epochs and writer.after_validation:
        return "after each validation"
    return "when training fails" if writer.on_exception else ""
