"""What a sweep has found, as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lightning_tricks.lr_finder.figures import draw_sweep
from lightning_tricks.lr_finder.judgement import has_learnt, has_turned, judge
from lightning_tricks.lr_finder.suggest import RULES
from lightning_tricks.lr_finder.sweep import best_candidate
from lightning_tricks.publishing.html import with_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """What a sweep has found.

    Args:
        lrs: rates of the first parameter group, rising; as far as the losses were finite.
        losses: loss after the update with each of them.
        smoothed: the same, smoothed.
        first_loss: before the first update.
        suggestions: name of a rule -> rate; a rule that finds none is not there.
        suggestion: the rate of the chosen rule; None when it finds none.
        confident: whether to believe it.
        reasons: what speaks against it; empty when nothing does.
        diverged: whether the loss rose again, or was not finite, at the largest rates.
        bake_off: candidate rate -> loss after a short training with it; empty without ``refine``.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    first_loss: float
    suggestions: dict[str, float]
    suggestion: float | None
    confident: bool
    reasons: list[str]
    diverged: bool
    bake_off: dict[float, float] = field(default_factory=dict)

    def plot(self) -> Figure:
        """Return a matplotlib figure: losses over rates (log), raw and smoothed, every suggestion marked."""
        return draw_sweep(
            self.lrs,
            self.losses,
            self.smoothed,
            first_loss=self.first_loss,
            suggestions=self.suggestions,
            suggestion=self.suggestion,
            title="" if self.confident else "low confidence: " + "; ".join(self.reasons),
        )

    def __str__(self) -> str:
        lr = "none" if self.suggestion is None else f"{self.suggestion:.3g}"
        why = "" if self.confident else f" (low confidence: {'; '.join(self.reasons)})"
        swept = f"{len(self.lrs)} rates" + (f" from {self.lrs[0]:.2g} to {self.lrs[-1]:.2g}" if self.lrs else "")
        return f"learning rate {lr}{why}; {swept}; suggestions: {self.told}"

    def __repr__(self) -> str:
        return f"<Result: {self}>"

    def _repr_html_(self) -> str:
        return with_picture(str(self), self.plot if self.lrs else None)

    @property
    def told(self) -> str:
        """All suggestions on one line."""
        return ", ".join(f"{name} {lr:.2g}" for name, lr in self.suggestions.items()) or "none"

    @property
    def may_be_refined(self) -> bool:
        """Whether nothing speaks against the suggestion but that the sweep has learnt little."""
        curve = (self.lrs, self.losses, self.smoothed, self.first_loss, self.diverged)
        return math.isfinite(self.first_loss) and not judge(self.suggestion, self.suggestions, *curve, settled=True)

    def refined(self, bake_off: Mapping[float, float]) -> Result:
        """Return the result after a bake-off, which decides where the sweep itself is not to be believed."""
        best, losses = best_candidate(bake_off, self.first_loss), dict(bake_off)
        if self.confident:
            return replace(self, suggestion=best or self.suggestion, bake_off=losses)
        if best is None or not has_learnt(losses[best], self.first_loss):
            reasons = [*self.reasons, "no rate of the bake-off did better"]
            return replace(self, reasons=reasons, bake_off=losses)
        return replace(self, suggestion=best, confident=True, reasons=[], bake_off=losses)


def judged_result(
    rule: str,
    lrs: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    first: float | None,
    *,
    ended: bool,
) -> Result:
    """Return what a sweep has found, and whether to believe it.

    Args:
        rule: the one that decides.
        lrs: that were tried, as far as the losses were finite.
        losses: after the update with each of them.
        smooth: the same, smoothed.
        first: loss before the first update; None where it could not be measured.
        ended: whether the sweep stopped because the loss diverged.
    """
    first = math.nan if first is None else first
    # (rules compare a rate with its neighbours)
    found = {name: of(lrs, smooth, first) for name, of in RULES.items()} if len(lrs) > 2 else {}
    suggestions = {name: lr for name, lr in found.items() if lr is not None}
    chosen, turned = suggestions.get(rule), has_turned(smooth, first, ended)
    reasons = judge(chosen, suggestions, lrs, losses, smooth, first, turned, ended) if lrs else ["no finite loss"]
    if not math.isfinite(first):
        reasons = ["the loss is not finite before the first update"]
    confident = not reasons
    return Result(list(lrs), list(losses), list(smooth), first, suggestions, chosen, confident, reasons, turned)
