"""Why updates are skipped under a loss scale: notes of a forward pass in, findings out. Pure, no Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_tricks.errors import listed
from lightning_tricks.modules.trace import Call
from lightning_tricks.precision.findings import Finding, islands_or_bfloat16


@dataclass(frozen=True)
class StreakRule:
    """Tells skips that are part of finding the loss scale from gradients that are not finite at any scale.

    Args:
        length: skips in a row from which on they are suspicious. A scale of 2^16 falls to 2^8 in that many.
        small_scale: a scale at which an ordinary overflow is no longer plausible.
        looks: forward passes that may be run again, whatever the number of attempts.
        every: one more for each that many attempts: a run that skips all the time is not slowed down by it.

    Example:
        >>> rule = StreakRule()
        >>> [rule.unrecoverable(streak, scale) for streak, scale in ((7, 1.0), (8, 1.0), (8, 64.0), (16, 64.0))]
        [False, True, False, True]
        >>> rule.may_look(9, 0), rule.may_look(10, 0), rule.may_look(10, 50), rule.may_look(11, 50)
        (True, False, True, False)
    """

    length: int = 8
    small_scale: float = 16.0
    looks: int = 10
    every: int = 100

    def suspicious(self, streak: int) -> bool:
        """Whether that many skips in a row are more than the scaler's search for its scale explains."""
        return streak >= self.length

    def unrecoverable(self, streak: int, scale: float) -> bool:
        """Whether a smaller loss scale will no longer help."""
        return self.suspicious(streak) and (scale <= self.small_scale or streak >= 2 * self.length)

    def may_look(self, looks: int, attempts: int) -> bool:
        """Whether one more forward pass may be run again after ``looks`` of them in ``attempts`` attempts."""
        return looks < self.looks + attempts / self.every


def explain(calls: Sequence[Call], *, loss_finite: bool, input_finite: bool, step: int) -> Finding | None:
    """Return what went wrong in a forward pass; None when nothing did, so that the backward pass must have.

    >>> calls = [Call("a", 9.0, 3e4), Call("b", 3e4, math.inf)]
    >>> explain(calls, loss_finite=False, input_finite=True, step=3).text
    'its output was not finite; its input reached 3e+04'
    """
    if not input_finite:
        return Finding("nonfinite input", "", "the batch holds NaN or inf", "Look at the data of this step", step)
    # (``not <``: NaN as well)
    bad = next((c for c in calls if not c.largest_output < math.inf and not c.masks), None)
    if bad is not None:
        name, into = bad.name, bad.largest_input
        if not bad.weights_finite:
            return Finding("nonfinite weight", name, "its weights are not finite", "Go back to a checkpoint", step)
        if into < math.inf:
            text = f"its output was not finite; its input reached {into:.3g}"
            return Finding("forward overflow", name, text, islands_or_bfloat16(name), step)
        text = "its input was not finite though no module before it gave such an output: a function between them did"
        advice = "Put that function into lightning_tricks.functional.in_fp32, or use precision='bf16-mixed'"
        return Finding("forward overflow", f"before {name}", text, advice, step)
    if not loss_finite:
        advice = "Compute the loss in float32 (lightning_tricks.functional.in_fp32), or check it for log(0) and 0/0"
        return Finding("loss overflow", "", "every module's output was finite, the loss was not", advice, step)
    return None


def too_large(scale: float, names: Sequence[str], step: int) -> Finding:
    """Return the finding of an ordinary overflow: forward pass and loss were finite, the scaled gradient was not."""
    text = f"forward pass and loss were finite at scale {scale:g}; gradients of {_listed(names)} were not"
    return Finding("loss scale too large", "", text, "The GradScaler halves its scale; nothing to do", step)


def backward_overflow(scale: float, names: Sequence[str], times: int, step: int) -> Finding:
    """Return the finding of gradients that stay NaN or inf however small the loss scale becomes."""
    text = f"gradients of {_listed(names)} were not finite in {times} attempts in a row, down to scale {scale:g}"
    advice = (
        "Look for sqrt, norm, log or a division at 0 behind it: their derivatives are infinite at any scale. Add an eps"
    )
    return Finding("backward overflow", names[-1] if names else "", text, advice, step)


def unexplained(loss_finite: bool, step: int) -> Finding:
    """Return the finding of a skip whose forward pass could not be looked at again.

    >>> unexplained(True, 4).text
    'the loss was finite: probably the loss scale was too large'
    """
    text = "the loss was finite: probably the loss scale was too large" if loss_finite else "the loss was not finite"
    return Finding("unexplained skip", "", text, "If there are many, look at amp/headroom of the modules", step)


def overflow_elsewhere(name: str, step: int) -> Finding:
    """Return the finding of an overflow in another process.

    >>> overflow_elsewhere("head", 4).module
    'head'
    """
    text = "its output was not finite on another process"
    return Finding("forward overflow", name, text, islands_or_bfloat16(name), step)


def _listed(names: Sequence[str]) -> str:
    return listed(names, 6) or "unknown parameters"


def overflowing_module(finding: Finding | None) -> str | None:
    """Return the module whose output overflowed; None for a finding of another kind.

    >>> overflowing_module(overflow_elsewhere("head", 4)), overflowing_module(unexplained(True, 4))
    ('head', None)
    """
    return finding.module if finding is not None and finding.kind == "forward overflow" else None


def overflows(names: Sequence[str], anywhere: Sequence[bool], own: Finding | None, step: int) -> list[Finding]:
    """Return the findings of all processes: of each module that overflowed in one of them, and else this one's own.

    Each process has another batch, but what follows from the findings has to be the same on all of them.

    >>> [f.module for f in overflows(["a", "b"], [False, True], None, 4)]
    ['b']
    """
    mine, known = overflowing_module(own), [] if own is None else [own]
    found = [name for name, there in zip(names, anywhere, strict=True) if there]
    return [known[0] if name == mine else overflow_elsewhere(name, step) for name in found] or known
