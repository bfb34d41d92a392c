"""What updates on one batch mean, at several learning rates: numbers in, passed or not, and the fix. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_tricks.diagnosis.sanity import Check

_SKILL = 0.3  # of one batch, against answering the same for every sample
_NOTHING = 0.05


@dataclass(frozen=True)
class Trial:
    """Some updates on one batch.

    Args:
        factor: on the learning rate.
        losses: before each update.
    """

    factor: float
    losses: tuple[float, ...]

    @property
    def finite(self) -> bool:
        """Whether all losses are."""
        return bool(self.losses) and all(map(math.isfinite, self.losses))

    @property
    def best(self) -> float:
        """The least loss of the last fifth."""
        return min(self.losses[-max(1, len(self.losses) // 5) :])

    @property
    def falls_still(self) -> bool:
        """Whether the last quarter is below the one before it, by more than a thousandth of the first loss."""
        quarter = max(1, len(self.losses) // 4)
        last, before = self.losses[-quarter:], self.losses[-2 * quarter : -quarter]
        if not before:
            return False
        return sum(before) / len(before) - sum(last) / len(last) > 1e-3 * abs(self.losses[0])


def learned(trial: Trial, constant: float | None, noise: float = 0.0) -> bool:
    """Whether the updates of a trial have taught something: then no other rate has to be tried.

    Args:
        trial: finished or under way.
        constant: loss of the best constant answer on that batch; None where the loss is not a usual one.
        noise: between two looks at the same batch.

    >>> learned(Trial(1.0, (2.3, 1.0, 0.5)), 2.2), learned(Trial(1.0, (2.3, 2.25)), 2.2)
    (True, False)
    """
    if not trial.finite or len(trial.losses) < 2:
        return False
    first, best = trial.losses[0], trial.best
    if constant is not None and constant > 0:
        return best < (1 - _SKILL) * constant and (first - best > 0 or first < 0.1 * constant)
    return first - best > max(0.5 * abs(first), 3 * noise)


def overfits(trials: Sequence[Trial], constant: float | None = None, noise: float = 0.0, moves: bool = True) -> Check:
    """Judge updates on one batch, at the run's own learning rate first.

    A loss that is not a usual one of outputs and targets may have a floor above 0, or none: whatever moves cannot be
    called wrong.

    Args:
        trials: at several learning rates.
        constant: loss of the best constant answer on that batch; None where the loss is not a usual one.
        noise: between two looks at the same batch with other random numbers.
        moves: whether the learning rate is above 0.

    >>> overfits([Trial(1.0, (2.3, 1.0, 0.1))], 2.2).passed, overfits([Trial(1.0, (2.3,) * 60)], 2.2).passed
    (True, False)
    """
    name = "overfits one batch"
    own = trials[0]
    if not own.losses:
        return Check(name, None, "training_step returned None")
    if not own.finite:
        return Check(name, False, "the loss became NaN or inf", "lower the learning rate; GradientClip(1.0)")
    first, best = own.losses[0], own.best
    seen = f"{first:.3g} -> {best:.3g} in {len(own.losses) - 1} updates of the same batch"
    if learned(own, constant, noise):
        return Check(name, True, seen)
    if not moves:
        return Check(name, None, f"{seen}; the learning rate is 0 before the first update")
    others = [t for t in trials[1:] if t.finite]
    better = next((t for t in others if learned(t, constant, noise)), None)
    if better is not None and better.factor < 1 and own.losses[-1] > first:
        fix = f"with {better.factor:g} times the learning rate it does ({first:.3g} -> {better.best:.3g}): LRFinder()"
        return Check(name, False, seen, fix)
    if better is not None:
        fix = f"with {better.factor:g} times the learning rate it does ({first:.3g} -> {better.best:.3g}): LRFinder()"
        return Check(name, None, seen, fix)
    if noise > _NOTHING * abs(first):
        return Check(name, None, f"{seen}; two looks at it differ by {noise:.2g}")
    fix = "a model that cannot learn one batch by heart has a bug: frozen or detached parts, loss, labels"
    finite = [own, *others]
    if all(abs(loss - first) <= 1e-6 * abs(first) for t in finite for loss in t.losses):
        satisfied = abs(first) < 1e-6  # (all triplets are far enough apart)
        return Check(name, None if satisfied else False, seen, "" if satisfied else fix)
    if constant is None:
        return Check(name, True if first - best > _NOTHING * abs(first) + 3 * noise else None, seen)
    if constant <= 1e-6 or any(t.falls_still for t in finite):
        return Check(name, None, f"{seen}, and still falling", "probably slow only: try LRFinder()")
    if min(t.best for t in finite) < (1 - _NOTHING) * constant:
        return Check(name, None, f"{seen}; answering the same for all samples gives {constant:.3g}")
    return Check(name, False, f"{seen}; answering the same for all samples gives {constant:.3g}", fix)
