"""The gradient norm of each parameter over the logged steps of a run, of any length, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

_MOST_COLUMNS = 256


@dataclass(frozen=True)
class LayerHistory:
    """Norms by parameter and logged step; beyond 256 steps every second one is dropped, and later ones are as sparse.

    Args:
        columns: logged steps with the norm of each parameter, on the host.
        every: every how many logged steps one is kept.
        waiting: logged steps since the last one that was kept.

    Example:
        >>> history = LayerHistory()
        >>> for step in range(400):
        ...     history = history.after(["w"], step, [1.0])
        >>> len(history.columns), history.every, [step for step, _ in history.columns[-2:]]
        (200, 2, [396, 398])
    """

    names: tuple[str, ...] = ()
    columns: tuple[tuple[int, Sequence[float]], ...] = ()
    every: int = 1
    waiting: int = 0

    def after(self, names: Sequence[str], step: int, norms: Sequence[float]) -> LayerHistory:
        """Return the history after one more logged step.

        Args:
            names: of the parameters now. Where they are others (layers were unfrozen), the history starts from scratch.
        """
        known = self if tuple(names) == self.names else LayerHistory(tuple(names))
        if known.waiting + 1 < known.every:
            return replace(known, waiting=known.waiting + 1)
        columns, every = (*known.columns, (step, norms)), known.every
        if len(columns) > _MOST_COLUMNS:
            columns, every = columns[::2], 2 * every
        return LayerHistory(known.names, columns, every)
