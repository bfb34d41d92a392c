"""Which few of many series get a curve of their own: the worst ones, chosen on the host and changed rarely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_tricks.numerics import form

_MOST = 5  # curves that one chart can show and a reader can distinguish
_SPARE = 2
_WEIGHT = 0.1  # of a new value in the running mean
_CLEARLY = 2.0

STATE_FORM = form.record(
    {"shown": form.list_of(form.text), "known": form.list_of(form.text), "means": form.dict_of(form.number)}
)


@dataclass(frozen=True)
class WorstSeries:
    """The worst few of many series, by their running means; larger is worse.

    A curve needs a name that stays. So the first logged step chooses, and from then on a series gives its place up
    only to one whose running mean is more than twice as large. Over a whole run no more than ``most + spare`` series
    are ever chosen, which bounds the number of log keys. A value that is not finite is left out of the mean.

    Args:
        most: series that are shown at a time.
        spare: series that may be shown beside the first ones over the whole run.
        shown: those that are shown now.
        known: all that were ever shown.
        means: running mean of each series.

    Example:
        >>> worst = WorstSeries(most=1).after(["a", "b"], [1.0, 3.0])
        >>> worst.shown
        ('b',)
        >>> for _ in range(9):  # "a" becomes four times as large as "b", and stays so
        ...     worst = worst.after(["a", "b"], [12.0, 3.0])
        >>> worst.shown, worst.known
        (('a',), ('b', 'a'))
    """

    most: int = _MOST
    spare: int = _SPARE
    shown: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    means: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_share(cls, parts: int) -> WorstSeries:
        """Return the choice for one of several optimizers, which share the places; each has one at least."""
        return cls(max(1, _MOST // parts), max(1, _SPARE // parts))

    def after(self, names: Sequence[str], values: Sequence[float]) -> WorstSeries:
        """Return the choice after one more logged step.

        Args:
            names: of the series that exist now; others are forgotten.
            values: one for each name, >= 0; larger is worse.
        """
        old = self.means
        means = {name: _mean(old.get(name), value) for name, value in zip(names, values, strict=True)}
        shown = [name for name in self.shown if name in means]
        known = [name for name in self.known if name in means]
        for name in sorted(means, key=means.__getitem__, reverse=True)[: self.most + self.spare]:
            if name in shown or (name not in known and len(known) >= self.most + self.spare):
                continue
            if len(shown) == self.most:
                least = min(shown, key=means.__getitem__)
                if not means[name] > _CLEARLY * means[least]:
                    # (in falling order: the rest cannot be worse)
                    break
                shown.remove(least)
            shown.append(name)
            known += [] if name in known else [name]
        return replace(self, shown=tuple(shown), known=tuple(known), means=means)

    def state(self) -> dict[str, Any]:
        """Return the choice as plain values, for a checkpoint."""
        return {"shown": list(self.shown), "known": list(self.known), "means": dict(self.means)}

    def restored(self, state: Mapping[str, Any]) -> WorstSeries:
        """Return the choice that a checkpoint holds."""
        return replace(self, shown=tuple(state["shown"]), known=tuple(state["known"]), means=dict(state["means"]))


def _mean(before: float | None, value: float) -> float:
    if not math.isfinite(value):
        return 0.0 if before is None else before
    return value if before is None else before + _WEIGHT * (value - before)
