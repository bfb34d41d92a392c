"""Clip rules without memory: norm and value; and what every clip rule is.

A rule maps norms ``[k]`` to coefficients ``[k]`` in (0, 1]: gradient ``<-`` coefficient * gradient. ``k`` is 1 for the
whole model, or the number of groups or layers. A non-finite norm gets coefficient 1: what happens to such an update is
the policy's matter (``GradientClip(nonfinite=)``), never the rule's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_tricks.errors import message, nearest, require_number
from lightning_tricks.numerics import host

State = dict[str, Any]

_NUMPY: dict[torch.dtype, type[np.floating[Any]]] = {torch.float32: np.float32, torch.float64: np.float64}
_SURELY_BELOW = 1.0 - 1e-6  # share of the threshold at which rounding in float32 cannot make a coefficient other than 1


def clip_coefficients(norms: Tensor, threshold: Tensor | float, eps: float = 1e-6) -> Tensor:
    """Return ``min(1, threshold / (norms + eps))``, by default torch's own formula; 1 for a non-finite norm.

    Args:
        norms: ``[k]``.
        threshold: a number or ``[k]``.
        eps: what is added to the norm. With 0, exactly the norms above the threshold get a coefficient below 1.

    Returns:
        ``[k]``, of the dtype of ``norms``.

    Reference: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013,
    arXiv:1211.5063; ``torch.nn.utils.clip_grad_norm_``.

    Example:
        >>> clip_coefficients(torch.tensor([0.5, 4.0, float("nan")]), 1.0)
        tensor([1.0000, 0.2500, 1.0000])
    """
    # what the host knows of a single norm saves small operations in each step
    known = host.value_on_host(norms) if norms.ndim == 0 else None
    if known is not None and not isinstance(threshold, Tensor) and known + eps <= threshold * _SURELY_BELOW:
        return torch.ones_like(norms)
    if known is not None and math.isfinite(known) and not isinstance(threshold, Tensor) and norms.dtype in _NUMPY:
        return torch.full_like(norms, _coefficient(known, threshold, eps, _NUMPY[norms.dtype]))
    # A norm of 0 has coefficient 1 too. In place: each tensor that is made costs as much as its arithmetic, each step
    divisor = torch.nan_to_num(norms, nan=0.0, posinf=0.0).add_(eps)
    ratio = threshold / divisor if isinstance(threshold, Tensor) else divisor.reciprocal_().mul_(threshold)
    return ratio.clamp_(max=1.0)


def _coefficient(norm: float, threshold: float, eps: float, number: type[np.floating[Any]]) -> float:
    """Return the coefficient of a finite norm, rounded as torch does: four operations of numpy cost one of torch."""
    ratio = number(1) / (number(norm) + number(eps)) * number(threshold)
    return min(1.0, float(ratio))


@dataclass(frozen=True)
class ClipRule(ABC):
    """What every clip rule is: a frozen configuration with ``init`` and ``update``.

    ``granularity`` is None where the user's ``per=`` decides what gets a coefficient of its own; otherwise the rule
    brings it: ``"layer"`` (AdaGC), ``"unit"`` (AGC), ``"element"`` (value).
    """

    granularity: ClassVar[str | None] = None

    @property
    def norm_kind(self) -> float:
        """The p of the norms that the rule wants."""
        return 2.0

    def init(self, size: int | None, device: torch.device) -> State:
        """Return the state before the first update, for ``size`` norms, or for one that is 0-d."""
        return {"version": 1}

    def upgraded(self, state: State) -> State:
        """Return a state as an older version wrote it in the form of this one."""
        return state

    @abstractmethod
    def update(self, norms: Tensor, state: State) -> tuple[Tensor, State]:
        """Return coefficients ``[k]`` for norms ``[k]``, and the next state."""


@dataclass(frozen=True)
class ClipNorm(ClipRule):
    """Scale gradients down to a largest norm: ``coefficient = min(1, max_norm / (norm + 1e-6))``.

    Args:
        max_norm: threshold, > 0. 1.0 is usual for transformers, 0.25 to 5 for recurrent networks.
        norm_type: p of the norm, > 0, or ``inf``.

    Raises:
        TypeError: an argument is not a number.
        ValueError: ``max_norm`` or ``norm_type`` is out of range.

    Reference: Pascanu et al., 2013, arXiv:1211.5063.

    Example:
        >>> ClipNorm(max_norm=2.0).update(torch.tensor([8.0]), {"version": 1})[0]
        tensor([0.2500])
    """

    max_norm: float
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        remedy = "Use e.g. 1.0, or GradientMonitor to only watch"
        require_number("ClipNorm", "max_norm", self.max_norm, remedy=remedy)
        if not (isinstance(self.norm_type, float) and math.isinf(self.norm_type) and self.norm_type > 0):
            require_number("ClipNorm", "norm_type", self.norm_type, remedy="Use 2.0, 1.0 or float('inf')")

    @property
    def norm_kind(self) -> float:
        """The p of the norms that the rule wants."""
        return float(self.norm_type)

    def update(self, norms: Tensor, state: State) -> tuple[Tensor, State]:
        """Return coefficients ``[k]`` for norms ``[k]``; there is no state to change."""
        return clip_coefficients(norms, self.max_norm), state


@dataclass(frozen=True)
class ClipValue(ClipRule):
    """Limit every gradient element to ``[-max_value, max_value]``. It changes the gradient's direction.

    Args:
        max_value: limit, > 0.

    Raises:
        TypeError: ``max_value`` is not a number.
        ValueError: it is not > 0 and finite.

    Example:
        >>> ClipValue(max_value=0.5).update(torch.tensor([2.0]), {"version": 1})[0]  # largest element 2
        tensor([0.2500])
    """

    granularity: ClassVar[str | None] = "element"
    max_value: float

    def __post_init__(self) -> None:
        require_number(
            "ClipValue", "max_value", self.max_value, remedy="Use e.g. 0.5, or GradientMonitor to only watch"
        )

    @property
    def norm_kind(self) -> float:
        """The largest element decides."""
        return float("inf")

    def update(self, norms: Tensor, state: State) -> tuple[Tensor, State]:
        """Return how much the largest element shrinks, for the statistics; the clamp itself is per element."""
        return clip_coefficients(norms, self.max_value, eps=0.0), state


def as_rule(rule: object) -> ClipRule:
    """Return a rule as it is, and a number c as ``ClipNorm(c)``.

    Raises:
        TypeError: ``rule`` is neither, or the class instead of an instance.
        ValueError: the number is not > 0 and finite.
    """
    remedy = "Use e.g. 1.0, or GradientMonitor to only watch"
    if isinstance(rule, ClipRule):
        return rule
    if isinstance(rule, type) and issubclass(rule, ClipRule):
        text = f"{rule.__name__} is a class"
        raise TypeError(message("GradientClip", "rule", rule, text, f"Pass an instance, e.g. {rule.__name__}(...)"))
    if isinstance(rule, str):
        raise TypeError(message("GradientClip", "rule", rule, "rule must be a number or a clip rule", _meant(rule)))
    if isinstance(rule, bool) or not isinstance(rule, (int, float)):
        raise TypeError(message("GradientClip", "rule", rule, "rule must be a number or a clip rule", remedy))
    try:
        return ClipNorm(float(rule))
    except ValueError:
        text = "max_norm must be > 0 and finite"
        raise ValueError(message("GradientClip", "rule", rule, text, remedy)) from None


def _meant(text: str) -> str:
    """Return what to write in place of a string: the rule of that name, or the number that is in it."""
    rules = {cls.__name__.lower(): cls.__name__ for cls in ClipRule.__subclasses__()}
    others = {"norm": "a number, e.g. 1.0", "value": "ClipValue(0.5)", "clipvalue": "ClipValue(0.5)"}
    name = text.lower().replace("_", "").replace("-", "")
    try:
        return f"Write it without quotes: {float(text):g}"
    except ValueError:
        near = nearest(name, rules)
        return f"Write {others[name]}" if name in others else f"Write {rules[near]}()" if near else "Use e.g. 1.0"
