"""Functions of ours around the methods of Lightning's loops, while a fit lasts.

Lightning has no hook where it makes the iterator of an epoch, and none where it goes on in the middle of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_tricks.modules.replaced import replaced


class LoopHooks:
    """Puts functions around methods, and takes all of them away at once.

    Args:
        guarded: calls a function of an observer, so that an error in it does not end the run.

    Example:
        >>> class Loop:
        ...     def run(self): print("run")
        >>> loop, hooks = Loop(), LoopHooks(lambda function: function())
        >>> hooks.around(loop, "run", before=lambda: print("before"))
        >>> loop.run(); hooks.end(); loop.run()
        before
        run
        run
    """

    def __init__(self, guarded: Callable[[Callable[[], None]], Any]) -> None:
        self._guarded = guarded
        self._endings: list[Callable[[], None]] = []

    def around(
        self, owner: Any, name: str, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
    ) -> None:
        """Call functions before and after a method without arguments."""
        method = getattr(owner, name)

        def around() -> None:
            if before is not None:
                self._guarded(before)
            method()
            if after is not None:
                self._guarded(after)

        self.replace(owner, name, around)

    def replace(self, owner: Any, name: str, function: Callable[..., None]) -> None:
        """Call a function instead of a method."""
        self.at_end(replaced(owner, name, function))

    def at_end(self, undo: Callable[[], None]) -> None:
        """Call a function when all hooks are taken away."""
        self._endings.append(undo)

    def end(self) -> None:
        """Make everything as it was; the last change is undone first."""
        while self._endings:
            self._endings.pop()()
