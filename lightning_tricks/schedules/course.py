"""Where on its curve an optimizer is: one position per update, and what happens when a run gets longer or shorter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from lightning_tricks.numerics import form
from lightning_tricks.schedules.run_curve import Curve, caught_up

COURSE = form.record(
    {
        "planned": form.none_or(form.count),
        "total": form.none_or(form.count),
        "end": form.count,
        "place": form.least_zero,
        "updates": form.count,
        "speed": form.least_zero,
        "held": form.count,
    }
)


@dataclass(frozen=True)
class Course:
    """How one optimizer moves along its curve: ``position = place + speed * (applied updates - updates)``.

    Args:
        planned: attempts that it will have made when the run ends; None where the curve does not follow them.
        total: the position at which its curve ends; None where the end is not known.
        end: the position from which on the curve stays where it ends. It is reached although some attempts are skipped.
        place: the position when ``updates`` were made.
        updates: applied updates.
        speed: positions per update from there on: 1 unless the forecast of the run's length was corrected.
        held: updates that the rate was held for, since the length was not known.

    Example:
        >>> course = Course(planned=10, total=10, end=10)
        >>> [course.position(k, k + 2) for k in range(9)]  # two attempts were skipped at the start
        [0, 1, 2, 3, 4, 5, 6, 8, 10]
    """

    planned: int | None = None
    total: int | None = None
    end: int = 0
    place: float = 0
    updates: int = 0
    speed: float = 1
    held: int = 0

    def position(self, applied: int | Tensor, attempted: int) -> float | Tensor:
        """Return the position after so many applied updates, of so many attempts.

        At the end of a run with skipped attempts it advances by two positions per update.

        Args:
            applied: updates; a 0-d int64 tensor where only the device knows them.
        """
        position = self.place + (applied - self.updates) * self.speed
        return position if self.planned is None else caught_up(position, attempted, self.planned, self.end, self.speed)

    def redrawn(self, old: Curve, new: Curve, planned: int, applied: int, attempted: int) -> Course:
        """Return the course on another drawing of the curve, for a run that turns out to be longer or shorter.

        The rate does not jump: what is behind stays behind, and what is left of the curve is spread over what is left
        of the run.
        """
        # (a host read where only the device knows the updates: once per change of the length)
        place = transferred(float(self.position(applied, attempted)), old, new)
        total = new.total or 0
        left = planned - attempted
        speed = (total - place) / left if left > 0 and total > place else 1.0
        # Exactly one position per update: whole numbers, so that nothing is interpolated and a resume gives the same
        # bits.
        if place == applied and abs(speed - 1.0) < 1e-9:
            place, speed = applied, 1
        return replace(self, planned=planned, total=total, end=new.settled(), place=place, updates=applied, speed=speed)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Course:
        """Return what ``state_dict`` gave."""
        return cls(**state)


def transferred(position: float, old: Curve, new: Curve) -> float:
    """Return the position on another drawing of a curve at which the rate is the same, and as much of it is behind.

    >>> from lightning_tricks.schedules.curves import Linear
    >>> short, long = (Curve(Linear(), 10, "linear", 0.0, 0, 0.0, total) for total in (110, 210))
    >>> transferred(5, short, long), transferred(60, short, long)
    (5, 110.0)
    """
    if abs(old.value(position) - new.value(position)) < 1e-9 and position <= (new.total or position):
        return position
    # (a curve without an end shows no decay among its parts)
    start, parts = 0.0, list(zip(old.parts(), new.parts(), strict=False))
    for i, ((_, before), (_, now)) in enumerate(parts):
        if position < before or i == len(parts) - 1:
            return start + min(1.0, position / max(1, before)) * now
        position -= before
        start += now
    return start
