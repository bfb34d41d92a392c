"""Clipper: a rule at work on one optimizer. Parts, the rule's state and the statistics belong together here."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.errors import UnsupportedError, message
from lightning_tricks.gradients.clip_statistics import ClipStatistics
from lightning_tricks.gradients.nonfinite import NonFiniteWatch
from lightning_tricks.gradients.parts import Parts, place
from lightning_tricks.gradients.rules import ClipRule, ClipValue
from lightning_tricks.gradients.units import AGC, excluded, unit_factors
from lightning_tricks.numerics import host
from lightning_tricks.numerics.state import State, fitting, moved
from lightning_tricks.optimizer_step.gradient_writer import GradientWriter
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page

_STATISTICS = ClipStatistics()
_SETTLE_AFTER = 64  # updates that enter the statistics at once: one by one would cost several small kernels each


class Clipper:
    """Clips one optimizer's gradients and remembers what it did.

    Raises:
        TrickError: groups overlap, or AGC excludes what is not there.
        UnsupportedError: AGC on a sharded model, or ``ClipValue`` on a complex parameter.
    """

    def __init__(self, rule: ClipRule, per: str, groups: dict[str, str] | None, view: OptimizerView) -> None:
        self.rule, self.per, self.groups = rule, per, groups
        self._generation = view.generation
        if isinstance(rule, ClipValue):
            _refuse_complex(rule, view)
        self.parts = _split(rule, per, groups, view)
        self.watch = NonFiniteWatch(view.names)
        self._agc = rule if isinstance(rule, AGC) else None
        self._left_out = set() if self._agc is None else excluded(self._agc, view)
        size = len(self.parts.names)
        self._state: State = rule.init(None if self.parts.whole else size, view.device)
        self._statistics: State = _STATISTICS.init(size, view.device)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def clip(self, page: Page, norms: Tensor, total: Tensor, writer: GradientWriter) -> Tensor:
        """Ask the writer for what the rule says about norms; return the coefficients of the parts, ``[k]``.

        Args:
            norms: of the parameters, ``[P]``.
            total: of all together, 0-d.
        """
        values = total if self.parts.whole else self.parts.norms(norms, self.rule.norm_kind)
        if self._agc is not None:
            factors, coefficients = unit_factors(self._agc, page, self._left_out)
            writer.scale_each(factors)
        else:
            coefficients, self._state = self.rule.update(values, self._state)
            ask(writer, self.rule, self.parts, coefficients, page)
        self._pending.append((values, coefficients))  # (tensors of this attempt that nobody writes to again)
        if len(self._pending) >= _SETTLE_AFTER:
            self.settle()
        return coefficients

    # -- parameters that come in mid-run --------------------------------------------------------------------------

    def fits(self, view: OptimizerView) -> bool:
        """Whether the optimizer is still the same and has the parameters that it had."""
        return self._generation is view.generation

    def renewed(self, view: OptimizerView) -> Clipper:
        """Return a clipper for the parameters that are there now; what was learnt stays where the parts did."""
        new = Clipper(self.rule, self.per, self.groups, view)
        if new.parts.names == self.parts.names:
            self.settle()
            new._state, new._statistics = self._state, self._statistics
        return new

    # -- statistics -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take the updates since the last time into the statistics, all at once."""
        if self._pending:
            size = len(self.parts.names)
            # (those of the whole model are 0-d)
            norms, coefficients = (torch.stack(column).reshape(-1, size) for column in zip(*self._pending, strict=True))
            self._statistics = _STATISTICS.update(norms, coefficients, self._statistics)
            self._pending = []

    def clipped_fraction(self) -> Tensor:
        """Return the share of updates that were clipped, 0-d, on the device."""
        self.settle()
        return _STATISTICS.clipped_fraction(self._statistics)

    def total(self, name: str) -> float:
        """Return the sum over the parts of ``"updates"``, ``"clipped"`` or ``"coefficients"``, on the host."""
        self.settle()
        return float(self._statistics[name].sum())

    def percentiles(self, percent: float) -> dict[str, float]:
        """Return that percentile of the finite norms by part, on the host; none for AGC, whose threshold is a ratio."""
        self.settle()
        if self._agc is not None:
            return {}
        values = _STATISTICS.percentiles(percent, self._statistics).tolist()
        return {name: value for name, value in zip(self.parts.names, values, strict=True) if math.isfinite(value)}

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return a copy of everything that was learnt, on the CPU."""
        self.settle()
        cpu = torch.device("cpu")
        kept = {"rule_state": moved(self._state, cpu), "statistics": moved(self._statistics, cpu)}
        return {"rule": repr(self.rule), "parts": list(self.parts.names), **kept}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up what ``state`` returned, on ``device``. Another rule, or one on other parts, starts from scratch.

        Raises:
            TrickError: the same rule and parts, but tensors of other shapes: the checkpoint is damaged.
        """
        if state["parts"] == list(self.parts.names):
            # (norms and how much of them was clipped stay of use under another rule)
            self._statistics = _resumed_statistics(moved(state["statistics"], device), self._statistics)
            if state["rule"] == repr(self.rule):
                rule_state = self.rule.upgraded(moved(state["rule_state"], device))
                self._state = fitting("GradientClip", rule_state, self._state)


def ask(writer: GradientWriter, rule: ClipRule, parts: Parts, coefficients: Tensor, page: Page) -> None:
    """Ask the writer for what a rule other than AGC has decided.

    Args:
        rule: decides whether elements are clamped or gradients are scaled.
        parts: what has a coefficient of its own.
        coefficients: of the parts, ``[k]``; 0-d for the whole model.
    """
    if isinstance(rule, ClipValue):
        writer.clamp(rule.max_value)
    elif parts.whole:  # one factor for all can be folded into a fused optimizer's step
        if host.value_on_host(coefficients) != 1.0:
            writer.scale(coefficients)
    else:
        each = parts.spread(coefficients).unbind()
        writer.scale_each([each[i] for i in page.present])


def _resumed_statistics(saved: State, fresh: State) -> State:
    """Return the statistics of a checkpoint, checked: a wrong position would write outside of the ring buffer."""
    position = saved["position"]
    if type(position) is not int or not 0 <= position < _STATISTICS.window:
        raise ValueError("invalid ring-buffer position in the statistics")
    return fitting("GradientClip", saved, fresh)


def _refuse_complex(rule: ClipRule, view: OptimizerView) -> None:
    found = next((name for name, p in zip(view.names, view.parameters, strict=True) if p.is_complex()), None)
    if found is not None:
        text = f"{found!r} is complex, and complex numbers have no order to clamp by"
        raise UnsupportedError(message("GradientClip", "rule", rule, text, "Use ClipNorm, or per='layer'"))


def _split(rule: ClipRule, per: str, groups: dict[str, str] | None, view: OptimizerView) -> Parts:
    if per == "layer" or rule.granularity in ("layer", "unit"):
        return Parts.of_layers(view.names)
    if per == "model":
        return Parts.of_model(len(view.names))
    if groups is None:
        titles = [str(group.get("name", f"group{j}")) for j, group in enumerate(view.optimizer.param_groups)]
        return Parts.of_groups(titles, view.group_of, view.device)
    placed = place([view], groups, owner="GradientClip", strict=False)[view.index]
    return Parts.of_named(groups, placed, view.device, rest=-1 in placed)
