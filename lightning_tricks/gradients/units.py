"""AGC, which clips the gradient of every output unit: the rule, the coefficients, and those of a whole optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_tricks.errors import UnsupportedError, is_list, message, require_number
from lightning_tricks.gradients.rules import ClipRule, State, clip_coefficients
from lightning_tricks.modules.selection import fault_of, matching
from lightning_tricks.numerics.norms import unit_norms
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page


def adaptive_coefficient(
    gradient: Tensor, parameter: Tensor, factor: float, eps: float, scale: float | Tensor
) -> Tensor:
    """Return AGC's coefficient of each output unit, shaped to broadcast against ``gradient``.

    ``c_i = min(1, factor * max(||w_i||, eps) / ||g_i||)``. The floor ``eps`` lets weights that start at zero
    train; without it their coefficient is 0 forever.

    Args:
        gradient: any shape, multiplied by the loss scale ``scale``.
        parameter: same shape.
        factor: allowed ratio of gradient to weight norm.
        eps: smallest weight norm.
        scale: the loss scale that ``gradient`` still carries, or 1.

    Reference: Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", 2021,
    arXiv:2102.06171, equation 3.

    Example:
        >>> w = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> adaptive_coefficient(torch.ones(2, 2), w, factor=0.1, eps=1e-3, scale=1.0)
        tensor([[3.5355e-01],
                [7.0711e-05]])
    """
    allowed = factor * unit_norms(parameter).clamp(min=eps)
    norms = unit_norms(gradient) / scale
    # (eps=0.0: the floor is on the side of the weights)
    return clip_coefficients(norms, allowed, eps=0.0)


@dataclass(frozen=True)
class AGC(ClipRule):
    """Adaptive gradient clipping: each output unit's gradient at most ``factor`` times its weights' norm.

    Args:
        factor: allowed ratio ``||g_i|| / ||w_i||``, > 0. 0.01 is the paper's for batch size 4096; larger for smaller.
        eps: floor of the weight norm, > 0, so that zero-initialised weights train.
        exclude: patterns (regular expressions on parameter names) to leave alone; the paper leaves out the classifier.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: ``factor`` or ``eps`` is not > 0 and finite.

    Reference: Brock et al., 2021, arXiv:2102.06171.

    Example:
        >>> AGC(factor=0.02, exclude=("^head",)).factor
        0.02
    """

    granularity: ClassVar[str | None] = "unit"
    factor: float = 0.01
    eps: float = 1e-3
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_number("AGC", "factor", self.factor, remedy="Use e.g. 0.01")
        require_number("AGC", "eps", self.eps, remedy="Use e.g. 1e-3")
        patterns: Any = self.exclude
        if not is_list(patterns) or not all(isinstance(x, str) for x in patterns):
            rule = "exclude must be a list of patterns on parameter names"
            raise TypeError(message("AGC", "exclude", self.exclude, rule, "Use e.g. ('^head',)"))
        for pattern in self.exclude:
            fault = fault_of(pattern)
            if fault is not None:
                raise ValueError(message("AGC", "exclude", pattern, f"the pattern {fault}", "Use e.g. ('^head',)"))
        object.__setattr__(self, "exclude", tuple(self.exclude))

    def update(self, norms: Tensor, state: State) -> tuple[Tensor, State]:
        """AGC needs weights beside gradients: the callback calls ``adaptive_coefficient`` instead."""
        raise TypeError("AGC works on gradients and weights, not on norms. Call adaptive_coefficient.")


def excluded(rule: AGC, view: OptimizerView) -> set[int]:
    """Return the positions of the parameters that AGC leaves alone.

    Raises:
        TrickError: a pattern of ``exclude`` matches no parameter.
        UnsupportedError: the model is sharded: a unit may lie on several ranks.
    """
    if view.sharded:
        text = "AGC needs whole output units, and this model is sharded"
        raise UnsupportedError(message("GradientClip", "rule", rule, text, "Use ClipNorm or AdaGC"))
    hits = [set(matching(view.names, pattern, owner="AGC", argument="exclude")) for pattern in rule.exclude]
    return set().union(*hits)


def unit_factors(rule: AGC, page: Page, left_out: set[int]) -> tuple[list[Tensor], Tensor]:
    """Return a factor for each gradient that is there, and the smallest factor of each parameter ``[P]``.

    Raises:
        UnsupportedError: a gradient is sparse.
    """
    view = page.view
    to_true = page.to_true()
    divisor = 1.0 if to_true is None else to_true.reciprocal()
    one = torch.ones((), dtype=torch.float32, device=view.device)
    factors, lowest = [], [one] * len(view.parameters)
    for i, gradient in zip(page.present, page.gradients, strict=True):
        if i in left_out:
            factors.append(one)
            continue
        if gradient.is_sparse:
            text = f"{view.names[i]!r} has sparse gradients, whose units AGC cannot see"
            raise UnsupportedError(message("AGC", "exclude", rule.exclude, text, "Name it in exclude="))
        weight = view.parameters[i].detach()
        factor = adaptive_coefficient(gradient, weight, rule.factor, rule.eps, divisor)
        factors.append(factor.to(gradient.dtype))
        if factor.numel():  # (a parameter may have no elements)
            lowest[i] = factor.amin()
    return factors, torch.stack(lowest)
