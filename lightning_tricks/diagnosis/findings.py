"""What is noticed in a training without being an alarm: hints with a confidence, and which of them are worth showing.

Numbers in, findings out. A hint below 60 % is not shown, nor one that contradicts a stronger one.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_tricks.detection.causes import Cause, Hint, Rate, kind_of
from lightning_tricks.diagnosis.loss_curve import Check
from lightning_tricks.publishing.statement import Outcome, Stated, Statement

LEAST_CONFIDENCE = 0.6  # of a finding that is shown
# update over weight; about 1e-3 is usual (Stanford's lecture notes CS231n)
SMALLEST_RATIO, LARGEST_RATIO = 1e-4, 1e-2
_LEAST_WAIT = 10.0  # seconds; a run that waited for less is not worth a change
_AS_TEXT = re.compile(r"([^()]+) \(step (-?\d+), confidence (\d+)%\): (.*)\. Next: (.*?)\.?", re.S)
_FULL_RATE = 0.5  # share of the highest rate below which the schedule explains small steps and a flat loss


@dataclass(frozen=True)
class Finding(Stated):
    """Something that was noticed.

    Args:
        kind: a ``Cause`` where it is an alarm, a ``Hint`` where it is advice; equal to its name, e.g. ``"plateau"``.
        evidence: the numbers that say so.
        confidence: how sure that is, in [0, 1]: 0.9 where nothing else looks like it, 0.5 for a guess.
        next_step: what to try.
        step: when it was noticed first.

    Example:
        >>> print(Finding(Hint.PLATEAU, "the loss fell by 0.1% in 200 steps", 0.5, "lower the learning rate", 900))
        plateau (step 900, confidence 50%): the loss fell by 0.1% in 200 steps. Next: lower the learning rate.
    """

    kind: Cause | Hint
    evidence: str
    confidence: float
    next_step: str
    step: int

    def __str__(self) -> str:
        head = f"{self.kind} (step {self.step}, confidence {self.confidence:.0%})"
        return f"{head}: {self.evidence}. Next: {self.next_step}."

    @property
    def statement(self) -> Statement:
        """What was seen and what to try, in the form that it shares with verdicts and answers of checks."""
        outcome = Outcome.BAD if isinstance(self.kind, Cause) else Outcome.WARNING
        return Statement(outcome, self.kind.value, self.evidence, self.next_step, self.step)

    @classmethod
    def from_text(cls, text: str) -> Finding | None:
        """Return the finding that a log holds as text; None where the text is something else.

        >>> finding = Finding(Hint.WAITING, "60% of the time", 0.8, "use more workers", 7)
        >>> Finding.from_text(str(finding)) == finding
        True
        """
        found = _AS_TEXT.fullmatch(text.strip())
        if found is None:
            return None
        name, step, confidence, evidence, next_step = found.groups()
        return cls(kind_of(name), evidence, int(confidence) / 100, next_step, int(step))


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings worth showing, the surest first: none below 60 %, none against a stronger one.

    Two findings contradict each other when one asks for a lower and the other for a higher learning rate.

    >>> high = Finding(Hint.RATE_TOO_LOW, "a", 0.7, "raise", 5)
    >>> low = Finding(Hint.OSCILLATION, "b", 0.65, "lower", 3)
    >>> [f.kind.value for f in ranked([low, high, Finding(Hint.PLATEAU, "c", 0.5, "stop", 1)])]
    ['learning rate too low']
    """
    kept: list[Finding] = []
    against = {Rate.LOWER: Rate.HIGHER, Rate.HIGHER: Rate.LOWER}
    # (alarms before advice)
    for finding in sorted(findings, key=lambda f: (isinstance(f.kind, Hint), -f.confidence, f.step)):
        contradicts = any(k.kind.rate is against.get(finding.kind.rate) for k in kept)
        if finding.confidence >= LEAST_CONFIDENCE and not contradicts:
            kept.append(finding)
    return kept


def solved(checks: Sequence[Check], start: float, share: float = 0.05) -> bool:
    """Whether the loss is at its floor: at most 5 % of what it was before training, for losses that stay above 0.

    >>> solved([Check(10, 0.05, 0.05)], 2.3), solved([Check(10, 1.0, 1.0)], 2.3)
    (True, False)
    """
    known = [c.median for c in checks if math.isfinite(c.median)]
    return bool(known) and start > 0 and min(known) >= 0 and statistics.median(known[-3:]) <= share * start


def plateau(checks: Sequence[Check], total: int) -> Finding | None:
    """Return a finding where the loss has been flat for 30 % of the run at a rate that has not been lowered.

    The confidence is 50 % where the loss is flat at the best that it has reached, which is what the end of a good
    training looks like as well, and 65 % where it is flat clearly above its best: then something was lost.

    >>> flat = [2.0, 1.5, 1.0, 0.8, 0.5, 0.5, 0.5] + [0.8] * 8
    >>> plateau([Check(50 * i, m, m, rate=0.1) for i, m in enumerate(flat)], 1000).confidence
    0.65
    """
    known = [c for c in checks if math.isfinite(c.median)]
    if len(known) < 12 or _annealed(known):
        return None
    recent = [c for c in known if c.step >= known[-1].step - 0.3 * total]
    before = [c for c in known if c.step < recent[0].step]
    if len(recent) < 6 or len(before) < 3:
        return None
    # (means of three: a single lucky check is not a level)
    smooth = [statistics.fmean(c.median for c in known[i : i + 3]) for i in range(len(known) - 2)]
    gained = max(c.median for c in before[:3]) - min(smooth)
    half = len(recent) // 2
    fell = statistics.fmean(c.median for c in recent[:half]) - statistics.fmean(c.median for c in recent[-half:])
    if gained <= 0 or abs(fell) >= 0.02 * gained:
        return None
    level = statistics.median(c.median for c in recent)
    lost = level - min(smooth) > 0.1 * gained and level - min(smooth) > 3 * _noise(recent)
    if min(smooth) < 0:  # (a loss below 0 may be made of advantages, which vanish where a policy does well)
        lost = lost and abs(level) > 0.2 * abs(min(smooth))
    updates = known[-1].step - recent[0].step
    evidence = f"the loss moved by {abs(fell) / gained:.1%} of its gain in the last {updates} steps"
    if lost:
        evidence += f", at {level:.4g}, above the {min(smooth):.4g} that it had reached"
    text = "lower the learning rate, or stop: it may be as good as it gets"
    return Finding(Hint.PLATEAU, evidence, 0.65 if lost else 0.5, text, known[-1].step)


def oscillation(checks: Sequence[Check], least: int = 10) -> Finding | None:
    """Return a finding where the loss turns at most checks, by far more than batches differ from each other.

    The confidence is above 60 % only where the swing is also more than half of the size of the loss.

    >>> oscillation([Check(i, m, m, losses=10) for i, m in enumerate([1.0, 2.5] * 6)]).evidence
    'the loss turned at 100% of the last 12 checks, by 86% of its size'
    """
    recent = [c for c in checks if math.isfinite(c.mean)][-12:]
    if len(recent) < least:
        return None
    moves = [b.mean - a.mean for a, b in pairwise(recent)]
    turns = sum(a * b < 0 for a, b in pairwise(moves)) / (len(moves) - 1)
    size = statistics.fmean(abs(c.mean) for c in recent)
    swing = statistics.median(abs(m) for m in moves)
    rates = [c.rate for c in recent if math.isfinite(c.rate)]
    # (where the rate goes up and down on purpose, so does the loss)
    cyclic = any(b.rate > a.rate for a, b in pairwise(recent)) and max(rates, default=0.0) > 1.2 * min(
        rates, default=0.0
    )
    if turns <= 0.7 or not size or swing <= 0.1 * size or swing <= 4 * _noise(recent) or cyclic:
        return None
    evidence = f"the loss turned at {turns:.0%} of the last {len(recent)} checks, by {swing / size:.0%} of its size"
    text = "lower the learning rate, or use larger batches"
    return Finding(Hint.OSCILLATION, evidence, 0.65 if swing > 0.5 * size else 0.5, text, recent[-1].step)


def update_size(ratio: float, step: int) -> Finding | None:
    """Return advice where updates are unusually large or small for the weights; many good trainings have such.

    >>> update_size(0.05, 100).kind.value, update_size(1e-3, 100)
    ('large updates', None)
    """
    if not math.isfinite(ratio) or SMALLEST_RATIO <= ratio <= LARGEST_RATIO:
        return None
    if ratio > LARGEST_RATIO:
        text = "lower the learning rate if the loss is restless; early in training this is usual"
        return Finding(Hint.LARGE_UPDATES, f"the median update is {ratio:.1g} of the weights", 0.4, text, step)
    text = "raise the learning rate if the loss hardly moves; late in a decay this is usual"
    return Finding(Hint.SMALL_UPDATES, f"the median update is {ratio:.1g} of the weights", 0.4, text, step)


def too_slow(checks: Sequence[Check], start: float) -> Finding | None:
    """Return a finding where the loss hardly moves and updates are tiny at the full rate: the rate is too low.

    >>> slow = [Check(10 * i, 2.3 - 0.001 * i, 2.3 - 0.001 * i, rate=1e-6, ratio=1e-6) for i in range(6)]
    >>> too_slow(slow, 2.3).kind.value
    'learning rate too low'
    """
    known = [c for c in checks if math.isfinite(c.median)]
    ratios = [c.ratio for c in known if math.isfinite(c.ratio)]
    if len(known) < 5 or len(ratios) < 5 or max(ratios[-5:]) >= SMALLEST_RATIO or _annealed(known):
        return None
    gain = (start - known[-1].median) / max(abs(start), 1e-12)
    if not abs(gain) <= 0.02:
        return None
    ratio = statistics.median(ratios[-5:])
    evidence = f"the loss moved by {gain:.1%} since the start, with updates of {ratio:.1g} of the weights"
    return Finding(Hint.RATE_TOO_LOW, evidence, 0.7, "try LRFinder(), or 10 times the rate", known[-1].step)


def forgetting(checks: Sequence[Check], start: float) -> Finding | None:
    """Return a finding where the first batch had been learned and is worse than before training, unlike present data.

    >>> losses = [(2.0, 1.8), (0.5, 0.4), (0.3, 0.2), (0.3, 6.0), (0.2, 6.1), (0.1, 6.2)]
    >>> forgetting([Check(i, m, m, fixed=f) for i, (m, f) in enumerate(losses)], 2.0).kind.value
    'forgetting'
    """
    fixed = [c.fixed for c in checks if math.isfinite(c.fixed)]
    if len(fixed) < 5 or start <= 0 or min(fixed) > 0.3 * start or min(c.median for c in checks[-3:]) > 0.5 * start:
        return None
    # (all of the last three: a single look may be bad by chance)
    if min(fixed[-3:]) <= 1.2 * start:
        return None
    evidence = (
        f"the loss on the first batch had fallen to {min(fixed):.4g} and is {fixed[-1]:.4g}, above the {start:.4g} "
        f"before training, while that of present batches is {checks[-1].median:.4g}"
    )
    text = "shuffle the data; where they come in sequence on purpose, repeat some of the earlier (arXiv:1902.10486)"
    return Finding(Hint.FORGETTING, evidence, 0.7, text, checks[-1].step)


def waiting(seconds_waited: float, seconds: float, step: int) -> Finding | None:
    """Return a finding where a run has waited for its data for more than half of the time, and for over 10 seconds.

    >>> waiting(60.0, 100.0, 50).kind.value, waiting(0.6, 1.0, 50), waiting(10.0, 100.0, 50)
    ('waiting for data', None, None)
    """
    if seconds_waited < _LEAST_WAIT or seconds_waited / seconds <= 0.5:
        return None
    evidence = f"{seconds_waited / seconds:.0%} of the time of training went by before batches arrived"
    text = "use more workers: DataLoader(num_workers=..., pin_memory=True)"
    return Finding(Hint.WAITING, evidence, 0.8, text, step)


def _annealed(checks: Sequence[Check]) -> bool:
    """Whether the schedule keeps the rate low now, in a warm-up or near the end of a decay."""
    rates = [c.rate for c in checks if math.isfinite(c.rate)]
    return bool(rates) and rates[-1] < _FULL_RATE * max(rates)


def _noise(checks: Sequence[Check]) -> float:
    """Return the standard error of a check's mean, as far as it comes from batches that differ."""
    errors = [c.spread / math.sqrt(c.losses) for c in checks if c.losses > 1 and math.isfinite(c.spread)]
    return statistics.median(errors) if errors else 0.0
