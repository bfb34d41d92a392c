"""How many updates really happened: applied and attempted optimizer steps, per optimizer.

Lightning's ``global_step`` counts the skipped steps of 16-mixed, steps without gradients, and the steps of all
optimizers together. An *attempt* is a step that Lightning asked an optimizer for; an *update* is one that changed
weights: torch's step post hook fired, some gradient was there, and ``found_inf`` was not set.

Where a fused optimizer skips on the device (a GradScaler, or a NaN gradient), only the device knows: the number of
updates is a tensor there, and an int everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.errors import TrickError, shown

_SUM_AFTER = 64  # flags of skipped steps that are kept before they are added up: one kernel in place of 64


class StepClock:
    """Counts attempts and updates of ``n`` optimizers.

    Example:
        >>> clock = StepClock()
        >>> clock.start(1)
        >>> _ = clock.attempt(0); clock.finish(0, gradients=True)     # an update
        >>> _ = clock.attempt(0); clock.finish(0, gradients=False)    # no gradient: nothing happened
        >>> clock.applied(0), clock.attempted(0)
        (1, 2)
    """

    def __init__(self) -> None:
        self._attempted: list[int] = []
        self._calls: list[int] = []
        self._skipped: list[Tensor | None] = []
        self._flags: list[list[Tensor]] = []
        self._open: list[bool] = []
        self._depth: list[int] = []
        self._restored: dict[str, list[int]] | None = None

    def start(self, num_optimizers: int) -> None:
        """Prepare the counts of a fit that begins; those of an earlier fit or a checkpoint continue."""
        if self._restored is not None:
            self._attempted = list(self._restored["attempted"])
            self._calls = list(self._restored["applied"])
            # a checkpoint holds updates, from which skipped steps are taken already
            self._skipped = [None] * len(self._calls)
            self._flags = [[] for _ in self._calls]
            self._restored = None
        missing = num_optimizers - len(self._attempted)
        if missing < 0:
            raise TrickError(
                f"StepClock: {len(self._attempted)} optimizers were counted before, but this run has "
                f"{num_optimizers}. Resume with the same optimizers, or start without the checkpoint."
            )
        self._attempted += [0] * missing
        self._calls += [0] * missing
        self._skipped += [None] * missing
        self._flags += [[] for _ in range(missing)]
        self._open = [False] * num_optimizers
        self._depth = [0] * num_optimizers

    def renew(self, num_optimizers: int) -> None:
        """An optimizer was replaced during a run: counts continue, and no step is in progress."""
        self.start(max(num_optimizers, len(self._attempted)))

    @property
    def fresh(self) -> bool:
        """Whether nothing was counted, nor restored, yet."""
        return self._restored is None and not any(self._attempted) and not any(self._calls)

    def enter(self, index: int) -> None:
        """Torch's step pre hook fired: twice for an optimizer whose own ``step`` calls its parent's."""
        self._depth[index] += 1

    def attempt(self, index: int) -> int:
        """Gradients of an attempted step are ready; return its number, from 1.

        LBFGS says so several times within one step; it is one attempt.
        """
        if not (self._depth[index] and self._open[index]):
            self._attempted[index] += 1
        self._open[index] = True
        return self._attempted[index]

    def leave(self, index: int) -> bool:
        """Torch's step post hook fired; return whether the whole step is over, and not only its parent's part."""
        # not below 0: hooks that were attached in the middle of a step see its end only
        self._depth[index] = max(0, self._depth[index] - 1)
        return self._depth[index] == 0

    def finish(self, index: int, *, gradients: bool, found_inf: Tensor | None = None) -> None:
        """A step is over.

        Args:
            gradients: whether any parameter had one.
            found_inf: the fused step's skip flag, 1.0 for skipped; None where a step that runs is applied.
        """
        if not self._open[index]:  # the user stepped the bare optimizer: Lightning told nobody
            self._attempted[index] += 1
        self._open[index] = False
        if not gradients:
            return
        self._calls[index] += 1
        if found_inf is not None:
            self._flags[index].append(found_inf.detach())
            if len(self._flags[index]) >= _SUM_AFTER:
                self._sum_up(index)

    def _sum_up(self, index: int) -> None:
        flags, self._flags[index] = self._flags[index], []
        if flags:
            found = torch.stack(flags).sum(dtype=torch.int64)
            skipped = self._skipped[index]
            self._skipped[index] = found if skipped is None else skipped.to(found.device) + found

    def attempted(self, index: int) -> int:
        """Return the attempted steps of an optimizer."""
        return self._attempted[index]

    @property
    def all_attempted(self) -> Sequence[int]:
        """The attempted steps of every optimizer."""
        return self._attempted

    def applied(self, index: int) -> int | Tensor:
        """Return the updates of an optimizer: an int, or a 0-d int64 tensor where only the device knows."""
        if self._flags[index]:
            self._sum_up(index)
        skipped = self._skipped[index]
        return self._calls[index] if skipped is None else self._calls[index] - skipped

    def applied_on_host(self, index: int) -> int:
        """Return the updates as an int: one host read where only the device knows."""
        return int(self.applied(index))

    def set_applied(self, updates: list[int]) -> None:
        """Start from these numbers: a position that was derived, for a checkpoint that holds none."""
        self._attempted, self._calls = list(updates), list(updates)
        self._skipped = [None] * len(updates)
        self._flags = [[] for _ in updates]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers (one host read per fused optimizer that skips on the device)."""
        if self._restored is not None:
            return {"version": 1, **self._restored}
        applied = [self.applied_on_host(i) for i in range(len(self._calls))]
        return {"version": 1, "attempted": list(self._attempted), "applied": applied}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the counts of a checkpoint; they hold from the next ``start``.

        Raises:
            ValueError: it was not written by this class.
        """
        lists = [state.get("attempted"), state.get("applied")]
        plain = all(isinstance(x, list) and all(type(v) is int and v >= 0 for v in x) for x in lists)
        if state.get("version") != 1 or not plain or len(lists[0]) != len(lists[1]):  # type: ignore[arg-type]
            raise ValueError(f"StepClock: {shown(dict(state))} is not a state of version 1. Is the checkpoint damaged?")
        self._restored = {"attempted": list(state["attempted"]), "applied": list(state["applied"])}
