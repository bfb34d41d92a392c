"""Which gradients were NaN or inf, when, and whether the loss was finite: kept on the device until it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_tricks.numerics.norms import nonfinite
from lightning_tricks.publishing.publish import Publisher


@dataclass(frozen=True)
class NonFinite:
    """What happened in the attempts since the last report.

    Args:
        attempts: numbers of the attempts in which a gradient was not finite.
        layers: names of the parameters that were hit, with the number of attempts each.
        loss_finite: whether the loss of the first of these attempts was finite; None if unknown.
    """

    attempts: tuple[int, ...]
    layers: dict[str, int]
    loss_finite: bool | None

    def __str__(self) -> str:
        """Say it in one line.

        >>> print(NonFinite((7, 8), {"head.weight": 2}, True))
        NaN or inf in the gradients of 2 updates, first at attempt 7: head.weight (2). The loss was finite there.
        """
        shown = [f"{name} ({times})" for name, times in list(self.layers.items())[:8]]
        more = f" and {len(self.layers) - 8} more" if len(self.layers) > 8 else ""
        words = {True: "finite", False: "not finite either", None: "not looked at"}
        updates = f"{len(self.attempts)} update{'s' if len(self.attempts) > 1 else ''}"
        return (
            f"NaN or inf in the gradients of {updates}, first at attempt {self.attempts[0]}: "
            f"{', '.join(shown)}{more}. The loss was {words[self.loss_finite]} there."
        )


class NonFiniteWatch:
    """Collects the norms of attempts and turns them into one small report vector.

    Args:
        names: of the ``P`` parameters.
        limit: attempts held before they are summed up, so that memory stays at ``limit * P`` numbers.
    """

    def __init__(self, names: Sequence[str], limit: int = 64) -> None:
        self.names = list(names)
        self._limit = limit
        self._norms: list[Tensor] = []
        self._losses: list[Sequence[Tensor]] = []
        self._attempts: list[int] = []
        self._rows: list[Tensor] = []
        self._counts: Tensor | None = None
        self._finite = False  # there were attempts of which the host knew that they were finite

    def note_finite(self) -> None:
        """Note an attempt of which the host knows that all is finite: nothing has to be kept of it."""
        self._finite = True

    def note(self, attempt: int, norms: Tensor, losses: Sequence[Tensor] = ()) -> None:
        """Keep the norms ``[P]`` of an attempt, and the losses of its micro-batches."""
        self._attempts.append(attempt)
        self._norms.append(norms)
        self._losses.append(losses)
        if len(self._norms) >= self._limit:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._norms:
            return
        row, counts = summed_up(self._norms, self._losses)
        self._rows.append(row)
        self._counts = counts if self._counts is None else self._counts + counts
        # (the attempts are kept: the report goes with their numbers)
        self._norms, self._losses = [], []

    def report(self) -> tuple[Tensor, tuple[int, ...]]:
        """Return a vector to copy to the host and the attempts that it covers; then nothing is kept of them.

        The vector holds ``n`` flags (was a gradient bad), ``n`` loss flags (2 for unknown) and ``P`` counts.
        """
        self._sum_up()
        if self._counts is None:
            return torch.zeros(0, dtype=torch.float32), ()
        rows = torch.cat(self._rows, dim=1).reshape(-1)
        vector, attempts = torch.cat([rows, self._counts]), tuple(self._attempts)
        self._attempts, self._rows, self._counts = [], [], None
        return vector, attempts

    def at(self, attempt: int, norms: Tensor, losses: Sequence[Tensor]) -> NonFinite | None:
        """Return what one attempt shows, read on the host at once: for a run that is about to end."""
        self.note(attempt, norms, losses)
        vector, attempts = self.report()
        return read_report(self.names, vector.tolist(), attempts)

    def send(self, publisher: Publisher, step: int, tell: Callable[[NonFinite], None]) -> Tensor | None:
        """Send the report along with a logged step; ``tell`` is called on the host if something was not finite.

        Returns:
            Number of attempts with a bad gradient, 0-d on the device; None when there were no attempts.
        """
        finite, self._finite = self._finite, False
        vector, attempts = self.report()
        if not attempts:
            return torch.zeros(()) if finite else None

        def on_arrival(values: list[float]) -> None:
            found = read_report(self.names, values, attempts)
            if found is not None:
                tell(found)

        publisher.put_private(step, vector, on_arrival)
        return vector[: len(attempts)].sum()


def summed_up(norms: Sequence[Tensor], losses: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Return flags of the attempts ``[2, n]`` (was a gradient bad, was the loss finite), and counts by layer ``[P]``.

    Args:
        norms: of each attempt, ``[P]``.
        losses: of the micro-batches of each attempt.

    >>> summed_up([torch.tensor([1.0, torch.nan])], [[torch.tensor(2.0)]])
    (tensor([[1.],
            [1.]]), tensor([0., 1.]))
    """
    bad = nonfinite(torch.stack(list(norms)))
    # (all of one dtype: they go to the host in one copy)
    return torch.stack([bad.any(dim=1).float(), _finite(losses, bad.device)]), bad.sum(dim=0).float()


def read_report(names: Sequence[str], values: Sequence[float], attempts: Sequence[int]) -> NonFinite | None:
    """Return what a reported vector, now on the host, says; None when all was finite.

    Args:
        names: of the ``P`` parameters.
        values: ``n`` flags (was a gradient bad), ``n`` flags of the losses (2 for unknown) and ``P`` counts.
        attempts: the numbers of the ``n`` attempts.

    >>> read_report(["w"], [0.0, 1.0, 1.0, 2.0, 1.0], [7, 8])
    NonFinite(attempts=(8,), layers={'w': 1}, loss_finite=None)
    """
    n = len(attempts)
    bad = [i for i in range(n) if values[i]]
    if not bad:
        return None
    layers = {name: int(count) for name, count in zip(names, values[2 * n :], strict=True) if count}
    loss = values[n + bad[0]]
    return NonFinite(tuple(attempts[i] for i in bad), layers, None if loss == 2 else bool(loss))


def _finite(losses: Sequence[Sequence[Tensor]], device: torch.device) -> Tensor:
    """Return for each attempt 1 where all its losses are finite, 0 where one is not, 2 where none is known, ``[n]``."""
    known = torch.tensor([1.0 if own else 2.0 for own in losses], dtype=torch.float32)
    known = known.to(device, non_blocking=True)
    flat = [loss.reshape(()) for own in losses for loss in own]
    if not flat:
        return known
    owner = torch.tensor([i for i, own in enumerate(losses) for _ in own]).to(device, non_blocking=True)
    bad = (~torch.isfinite(torch.stack(flat))).to(device=device, dtype=torch.float32)
    # (summed up on the device, and at most 1: several losses of one attempt may be bad)
    return known - torch.zeros_like(known).index_add(0, owner, bad).clamp(max=1.0)
