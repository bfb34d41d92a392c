"""AGC over the parameters of an optimizer: which are left out, and the factor of every output unit."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.errors import UnsupportedError, message
from lightning_tricks.gradients.rules import AGC, adaptive_coefficient
from lightning_tricks.modules.selection import matching
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page


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
