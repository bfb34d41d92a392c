"""The arguments of GradientMonitor and GradientClip, checked; their docstrings explain them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lightning_tricks.errors import message, require_choice, require_count, require_flag, require_number
from lightning_tricks.gradients.rules import ClipRule, as_rule
from lightning_tricks.modules.selection import check_patterns

PER = ("model", "group", "layer")
NONFINITE = ("skip", "zero", "warn", "raise")
CONFLICT = ("error", "replace")


@dataclass(frozen=True)
class MonitorSpec:
    """What a ``GradientMonitor`` was asked for."""

    every_n_steps: int | None = None
    per_layer: bool | Literal["top"] = "top"
    groups: dict[str, str] | None = None
    norm_type: float = 2.0
    update_ratio: bool = False
    noise_scale: bool = False
    histograms: bool = False

    def __post_init__(self) -> None:
        owner = "GradientMonitor"
        if self.every_n_steps is not None:
            require_count(owner, "every_n_steps", self.every_n_steps, remedy="Use e.g. 50, or None for the Trainer's")
        if not (isinstance(self.norm_type, float) and math.isinf(self.norm_type) and self.norm_type > 0):
            require_number(owner, "norm_type", self.norm_type, remedy="Use 2.0, 1.0 or float('inf')")
        given: object = self.per_layer
        if not isinstance(given, bool) and given != "top":
            rule = "per_layer must be 'top', True or False"
            raise ValueError(message(owner, "per_layer", given, rule, "Use 'top' for the five largest norms"))
        for name in ("update_ratio", "noise_scale", "histograms"):
            require_flag(owner, name, getattr(self, name))
        object.__setattr__(self, "groups", check_patterns(owner, self.groups))
        object.__setattr__(self, "norm_type", float(self.norm_type))


@dataclass(frozen=True)
class ClipSpec:
    """What a ``GradientClip`` was asked for. A number as ``rule`` becomes a ``ClipNorm``."""

    rule: ClipRule
    per: str = "model"
    nonfinite: str = "skip"
    groups: dict[str, str] | None = None
    conflict: str = "error"

    def __post_init__(self) -> None:
        owner = "GradientClip"
        object.__setattr__(self, "rule", as_rule(self.rule))
        require_choice(owner, "per", self.per, PER)
        require_choice(owner, "nonfinite", self.nonfinite, NONFINITE)
        object.__setattr__(self, "groups", check_patterns(owner, self.groups))
        require_choice(owner, "conflict", self.conflict, CONFLICT)
        own = self.rule.granularity
        if own is not None and self.per not in ("model", own):
            text = f"{type(self.rule).__name__} always works per {own}"
            raise ValueError(message(owner, "per", self.per, text, "Leave per= out"))
