"""What a failed attempt to run a batch has changed in a module, and how it is undone."""

from __future__ import annotations

from typing import Any

from lightning_tricks.accumulation.spec import OWNER
from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.snapshot import Snapshot
from lightning_tricks.errors import NotRestorableError, TrickError


class AttemptState:
    """What a forward pass changes in a module, taken before each attempt: one that fails half-way is undone.

    A parameter that is not trained and too large to be copied at every step is looked at in the first one: where the
    step writes to it (a momentum teacher), it is copied from then on.
    """

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._obstacle = ""
        self._written: set[int] | None = None

    def take(self, module: Any) -> None:
        """Note what a module holds, before an attempt."""
        self._snapshot = None
        if self._obstacle:
            return
        try:
            self._snapshot = Snapshot(Roots({"module": module}), watch=False, also=self._written or ())
        except NotRestorableError as error:  # no reason to end a run in which memory may never run out
            self._obstacle = error.what
            return
        # The first attempt that succeeds shows which large storages a step writes to; later ones copy these beforehand.
        if self._written is None:
            self._snapshot.note_checksums()

    def succeeded(self) -> None:
        """The attempt is over: forget what was there before it."""
        if self._snapshot is not None and self._written is None:
            self._written = self._snapshot.written()
        self._snapshot = None

    def put_back(self, error: str) -> None:
        """Undo a failed attempt."""
        if self._snapshot is None:
            raise TrickError(
                f"{OWNER}(on_oom='split'): no memory ({error}), and the step cannot be made again in smaller parts, "
                f"since {self._obstacle}. Use a smaller batch."
            )
        self._snapshot.restore()
