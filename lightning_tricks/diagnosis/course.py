"""The course of a training as the doctor remembers it: curves, and what was noticed. Plain numbers, on the host.

``Course.add`` takes what a check measured; ``statistics`` says what the alarms follow, ``findings`` what users see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_tricks.detection.causes import Cause, Hint, kind_of
from lightning_tricks.detection.judge import MOST_POINTS
from lightning_tricks.diagnosis import findings, loss_curve, loss_rises, no_progress
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.diagnosis.loss_curve import Check
from lightning_tricks.numerics import form
from lightning_tricks.numerics.error_parts import ErrorParts, error_parts

_MOST_CHECKS = 1024  # the rules look at all of them, at each check
_USUAL_LOSSES = 150
_EARLY_LOSSES = 10
_SPIKING = 5  # losses in a row
_TIMES = 3  # checks in a row at which a hint holds before it is told, or does not before it is taken back
# share of the weights that one update takes away: what was learned twenty updates ago is a third of what it was
MOST_DECAY = 0.05
_BEFORE = 12  # checks that a rise is compared with
_FINDING = form.record(
    {
        **dict.fromkeys(("kind", "evidence", "next_step"), form.text),
        **{"confidence": form.number, "step": form.step},
    }
)
_NUMBERS = form.list_of(form.measured)
# of a check; the loss on the first batch is apart, since a resumed run measures it on the first batch that it gets
_NOTHING = 1e-5  # a loss that is about 0
_LEVEL = 1e-2  # a gradient that is, of such a loss
_SAVED = ("mean", "median", "rate", "ratio", "weights", "spread")
FORMS: dict[str, form.Form] = {
    **{"steps": form.list_of(form.number), "findings": form.list_of(_FINDING)},
    **dict.fromkeys(("means", "usual", "validation"), _NUMBERS),
}
OPTIONAL_FORMS: dict[str, form.Form] = {
    "checks": form.list_of(form.list_of(form.measured, len(_SAVED))),
    "counts": form.list_of(form.count),
    **dict.fromkeys(("early", "spike", "sizes", "scores", "fixed_batch_loss", "extents"), _NUMBERS),
    "hints": form.list_of(form.record({"finding": _FINDING, "times": form.count})),
    "felt": form.flag,
}


class Plan(NamedTuple):
    """What a run has set itself.

    Args:
        updates: of the whole run; 0 where they are not known.
        base_rate: the learning rate that schedulers multiply; NaN where there is none.
        decay: share of the weights that weight decay takes away at an update, now; NaN where it is not known.
    """

    updates: int = 0
    base_rate: float = math.nan
    decay: float = math.nan


class Course:
    """What is remembered of a training.

    Args:
        patience: bad checks in a row that make an alarm.

    Example:
        >>> course = Course(3)
        >>> course.add(Check(10, 0.0, 0.0, losses=2), [2.0, 1.0], [0.5, 0.1], [3.0])
        >>> course.checks[0].mean, course.start
        (1.5, 1.5)
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.checks: list[Check] = []
        self.early: list[float] = []  # the first losses of the run
        self.usual: list[float] = []  # the last ones, without those of a spike
        self.spike: list[float] = []  # losses that are far above the usual ones
        self.limit = math.inf  # above which they are
        self.validation: list[float] = []
        self.scores: list[float] = []  # accuracies of the validations that log one
        self.sizes: list[float] = []  # norms that the weights began with
        self.felt = False  # whether there was a gradient
        self.slope = math.nan  # norm of the whole gradient at the last check
        self.trained: bool | None = None  # before this run: a loss of about 0 is then no fault; None until it is asked
        self.noted: dict[Cause | Hint, Finding] = {}
        self.hints: dict[Hint, tuple[Finding, int]] = {}  # with the number of checks at which it held

    @property
    def start(self) -> float:
        """The loss before training; NaN when none is known."""
        return loss_curve.beginning(self.early) if self.early else math.nan

    @property
    def parts(self) -> ErrorParts | None:
        """Where the error comes from; None where losses do not tell."""
        train = loss_curve.finite_median([c.median for c in self.checks[-3:]])
        return error_parts(self.start, train, self.validation)

    @property
    def nothing_left(self) -> bool:
        """Whether loss and gradients were about 0 from the start, and are now: at an optimum, or by a fault."""
        losses = self.start, self.checks[-1].median if self.checks else math.nan
        return all(abs(loss) <= _NOTHING for loss in losses) and self.slope <= _LEVEL

    @property
    def satisfied(self) -> bool:
        """Whether the network was at its optimum from the start."""
        return bool(self.trained) and self.nothing_left

    # -- a check ------------------------------------------------------------------------------------------------------

    def add(self, check: Check, losses: Sequence[float], norms: Sequence[float], sizes: Sequence[float]) -> None:
        """Take a check up.

        Args:
            check: what is known of it; mean, median, spread and shrinking are worked out here.
            losses: of the steps since the check before.
            norms: of the gradients of all parameters.
            sizes: norms of the weights.
        """
        self.felt |= any(n > 0 for n in norms)
        self.slope = math.hypot(*norms)
        self.early = [*self.early, *losses][:_EARLY_LOSSES]
        recent = [*self.usual, *self.spike, *losses][-max(len(losses), _EARLY_LOSSES) :]
        check = check._replace(
            mean=loss_curve.finite_mean(losses),
            median=loss_curve.finite_median(recent),
            spread=loss_curve.spread(losses),
            weights=self._share_left(sizes),
            losses=len(losses),
        )
        self.checks.append(check)
        if len(self.checks) > _MOST_CHECKS:
            del self.checks[1 : _MOST_CHECKS // 2 : 2]  # of the older half every second one goes

    def _share_left(self, sizes: Sequence[float]) -> float:
        """Return what most weights have at most of the norm that they began with."""
        if len(sizes) != len(self.sizes):  # (layers were frozen or thawed)
            self.sizes = list(sizes)
        shares = sorted(now / first for now, first in zip(sizes, self.sizes, strict=True) if first > 0)
        # (the 80th percentile: four weights in five have shrunk at least as far)
        return shares[int(0.8 * (len(shares) - 1))] if shares else math.nan

    def follow_spikes(self, losses: Sequence[float], *, curves: bool = True) -> None:
        """Tell losses far above the usual ones from these; they do not become usual until they have lasted for long.

        Args:
            losses: of the steps since the check before.
            curves: whether the losses are of one thing; otherwise all are usual.
        """
        tail = 0 if self.spike else _SPIKING - 1
        history = self.usual[: len(self.usual) - tail]
        recent = [*(self.spike or self.usual[len(history) :]), *losses]
        spiking = curves and loss_curve.spiking(recent, history, _SPIKING)
        if spiking and len(recent) < _USUAL_LOSSES:
            self.usual, self.spike, self.limit = history, recent, loss_curve.spike_limit(history)
            return
        if self.spike and not spiking and not self.harder():
            evidence = f"about {len(self.spike)} losses were above {self.limit:.4g}, and came down by themselves"
            text = "nothing; if it comes again, clip gradients: GradientClip(1.0), or warm up for longer"
            self.noted.setdefault(
                Hint.PASSING_SPIKE, Finding(Hint.PASSING_SPIKE, evidence, 0.6, text, self.checks[-1].step)
            )
        self.usual, self.spike, self.limit = [*self.usual, *self.spike, *losses][-_USUAL_LOSSES:], [], math.inf

    def _since_rise(self) -> int:
        """Return how many of the last checks are above the limit of a spike."""
        return next((i for i, c in enumerate(reversed(self.checks)) if c.median <= self.limit), len(self.checks))

    def harder(self) -> bool:
        """Whether losses above the usual ones come from harder data.

        The loss on the first batch has not risen; or samples are larger than they were, as with sequences that grow
        longer or images that grow in stages.
        """
        cut = len(self.checks) - max(self._since_rise(), 1)
        before, since = self.checks[:cut], self.checks[cut:]
        if loss_curve.samples_grew(before[-_BEFORE:], since):
            return True
        # (late in a run, the first batch is run again at few checks only)
        known, now = ([c.fixed for c in part if math.isfinite(c.fixed)] for part in (before, since))
        return bool(known and now) and min(now[:2]) <= max(known[-_BEFORE:]) + 0.2 * abs(max(known[-_BEFORE:]))

    def stays(self) -> bool:
        """Whether a rise above the usual losses stays, and comes neither from the rate's schedule nor from the data."""
        now, rise = self.checks[-1], self._since_rise()
        if self.start < 0 and abs(now.median) <= 0.2 * abs(self.start):
            return False  # what a loss below 0 is made of has vanished, as the advantages of a policy that does well
        if loss_curve.in_balance(self.start, self.checks):
            return False
        high = now.median > self.limit and not self.harder()
        if not high and not loss_rises.relapse(self.start, self.checks):
            return False
        before = self.checks[max(0, len(self.checks) - rise - _BEFORE) : len(self.checks) - rise]
        rates = [c.rate for c in before if math.isfinite(c.rate)]
        # a higher rate explains a rise for some checks; one that stays is not the start of a new cycle
        raised = next((i for i, r in enumerate(reversed(rates)) if now.rate > 1.5 * r), len(rates)) + rise
        restarted = bool(rates) and now.rate > 1.5 * min(rates) and raised <= self.patience
        # (from its own peak: the first losses of the run may have been higher)
        risen = self.checks[-rise:] if high else self.checks
        return not restarted and not loss_curve.falling(risen, loss_curve.finite_median(self.usual))

    def statistics(
        self, values: Mapping[str, float], *, curves: bool = True, plan: Plan | None = None
    ) -> dict[str, float]:
        """Return what the alarms follow: each is low where something is wrong.

        Args:
            values: of the check; ``_finite``, ``_vanishing`` and ``_silent`` are used.
            curves: whether the losses are of one thing, so that their curve says something.
            plan: what the run has set itself.
        """
        plan = plan or Plan()
        start, now = self.start, self.checks[-1]
        lost = values["_vanishing"] and not no_progress.has_learned(start, self.checks)
        # (a loss that was 0 from the start has nothing behind it, unless the network was trained before)
        finished = (now.median == 0.0 and start != 0) or (self.felt and no_progress.at_floor(start, self.checks))
        finished = finished or self.satisfied
        bad = {
            "spike": curves and self.stays(),
            "silence": values["_silent"] and not finished,
            "flow": lost,
            "idle": self.felt
            and not self.satisfied
            and not findings.solved(self.checks, start)
            and (
                no_progress.ran_out(self.checks, plan.updates)
                or no_progress.never_moves(start, self.checks, plan.updates, plan.base_rate)
                or no_progress.never_warms_up(self.checks, plan.base_rate, plan.updates)
            ),
            "evaluation": curves and loss_rises.fails_in_eval_mode(start, self.checks),
            "unmoved": curves
            and self.felt
            and not self.satisfied
            and no_progress.never_falls(start, self.checks, plan.updates),
            "shrinkage": plan.decay >= MOST_DECAY or (curves and no_progress.shrinking(start, self.checks)),
            "blow-up": curves and loss_rises.blow_up(self.early, self.checks) is not None,
        }
        margin = loss_rises.divergence(self.early, self.checks) if curves else math.nan
        return {"finite": values["_finite"], "divergence": margin, **{n: 1.0 - float(bool(b)) for n, b in bad.items()}}

    # -- what was noticed ---------------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """Return what is worth showing, the surest first."""
        return findings.ranked(self.noted.values())

    def advise(self, found: Iterable[Finding | None]) -> None:
        """Follow every hint: one that has held at some checks is noted; one that has not at as many is taken back."""
        now = {f.kind: f for f in found if f is not None and isinstance(f.kind, Hint)}
        for kind in {*now, *self.hints}:
            held, times = self.hints.get(kind, (now.get(kind), 0))
            finding = now.get(kind, held)
            assert finding is not None
            times = min(times + 1, _TIMES) if kind in now else times - 1
            if times <= 0:
                self.hints.pop(kind, None)
                self.noted.pop(kind, None)
                continue
            self.hints[kind] = (finding, times)
            if times == _TIMES and finding.confidence >= findings.LEAST_CONFIDENCE:
                self.noted.setdefault(kind, finding)

    def hints_now(self, total: int) -> list[Finding | None]:
        """Return the hints on losses and updates that hold at the last check; none once the task is solved.

        Args:
            total: updates of the whole run.
        """
        if self.satisfied or findings.solved(self.checks, self.start):
            return []
        return [
            findings.update_size(self.checks[-1].ratio, self.checks[-1].step),
            findings.too_slow(self.checks, self.start) if self.felt else None,
            findings.plateau(self.checks, total),
            findings.oscillation(self.checks),
            findings.forgetting(self.checks, self.start),
        ]

    def validated(self, loss: float, score: Sequence[float]) -> bool:
        """Take a validation up; return whether the network overfits.

        Args:
            loss: of the validation.
            score: its accuracy, where one was logged; more is better.
        """
        self.validation.append(loss)
        self.scores = [*self.scores, *score][-MOST_POINTS:]
        if len(self.validation) > MOST_POINTS:  # (the best one must stay)
            best = min(self.validation[: MOST_POINTS // 2], key=lambda v: v if math.isfinite(v) else math.inf)
            self.validation = [best, *self.validation[MOST_POINTS // 2 :]]
        train = self.checks[-1].mean
        apart = loss_curve.never_generalises(train, self.validation, self.start)
        learns = bool(self.scores) and max(self.scores) > self.scores[0] + 0.02
        over = loss_curve.overfitting(train, self.validation, self.start) or (apart and not learns)
        # (a hundredth is within the noise of a small validation set)
        if over and score and score[0] >= max(self.scores) - 0.01:
            # more and more sure of the few that are wrong, and no worse
            evidence = (
                f"validation loss rose to {loss:.4g} while the score of validation is at its best, {score[0]:.4g}"
            )
            text = "keep on; for probabilities that can be trusted, temperature scaling (arXiv:1706.04599)"
            found = Finding(Hint.OVERCONFIDENCE, evidence, 0.7, text, self.checks[-1].step)
            self.noted.setdefault(Hint.OVERCONFIDENCE, found)
            return False
        return over

    def restart(self) -> None:
        """The weights were put back: the curves start again, but for the loss before training."""
        self.checks, self.usual, self.spike, self.validation, self.scores = [], [], [], [], []

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **{n: list(getattr(self, n)) for n in ("usual", "validation", "early", "spike", "scores", "sizes")},
            "steps": [check.step for check in self.checks],
            "means": [check.mean for check in self.checks],
            "checks": [[getattr(check, name) for name in _SAVED] for check in self.checks],
            "fixed_batch_loss": [check.fixed for check in self.checks],
            "extents": [check.extent for check in self.checks],
            "counts": [check.losses for check in self.checks],
            "findings": [_plain(finding) for finding in self.noted.values()],
            "hints": [{"finding": _plain(finding), "times": times} for finding, times in self.hints.values()],
            "felt": self.felt,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` returned, also of older versions, which had steps and means of checks only.

        Raises:
            ValueError: the curve has not as many steps as losses.
        """
        steps, means = state["steps"], state["means"]
        rows = state.get("checks", [(m, m, *[math.nan] * (len(_SAVED) - 2)) for m in means])
        counts = state.get("counts", [0] * len(means))
        fixed = state.get("fixed_batch_loss", [math.nan] * len(means))
        extents = state.get("extents", [math.nan] * len(means))
        if not len(steps) == len(means) == len(rows) == len(counts) == len(fixed) == len(extents):
            raise ValueError("the curve has not as many steps as losses")
        self.checks = [
            Check(int(step), losses=count, fixed=loss, extent=extent, **dict(zip(_SAVED, row, strict=True)))
            for step, row, count, loss, extent in zip(steps, rows, counts, fixed, extents, strict=True)
        ]
        self.early, self.felt = list(state.get("early", means[:1])), state.get("felt", bool(means))
        for name in ("usual", "validation", "spike", "scores", "sizes"):
            setattr(self, name, list(state.get(name, [])))
        self.limit = loss_curve.spike_limit(self.usual) if self.spike else math.inf
        self.noted = {f.kind: f for f in map(_finding, state["findings"])}
        hints = [(_finding(h["finding"]), h["times"]) for h in state.get("hints", [])]
        self.hints = {f.kind: (f, times) for f, times in hints if isinstance(f.kind, Hint)}


def _plain(finding: Finding) -> dict[str, Any]:
    return {**vars(finding), "kind": finding.kind.value}


def _finding(plain: Mapping[str, Any]) -> Finding:
    return Finding(**{**plain, "kind": kind_of(plain["kind"])})
