"""Predictions and the labels they are meant for: do their shapes belong together? torch only."""

from __future__ import annotations

import torch
from torch import Tensor


def matched(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return logits ``[n, K]`` and targets ``[n]`` from any usual pair of shapes; None when they do not fit.

    ``[n, K]`` and ``[n]``; ``[n, tokens, K]`` and ``[n, tokens]``; ``[n, K, ...]`` and ``[n, ...]`` (as
    ``cross_entropy`` wants it); ``[n]`` or ``[n, 1]`` and ``[n]`` for two classes.

    >>> logits, target = matched(torch.zeros(2, 5, 7, 7), torch.zeros(2, 7, 7).long())
    >>> logits.shape, target.shape
    (torch.Size([98, 5]), torch.Size([98]))
    """
    logits, target = logits.detach(), target.detach()
    if (target.ndim and logits.shape == target.shape) or logits.shape == (*target.shape, 1):
        # Floating-point targets with several columns are a regression or several labels at once, and not classes.
        if not target.is_floating_point() or target.ndim < 2 or target.shape[-1] == 1:
            # One logit z for two classes is a softmax over (0, z): its second entry is sigmoid(z).
            one = logits.reshape(-1)
            return torch.stack([torch.zeros_like(one), one], 1), target.reshape(-1).round().long()
        return None
    if target.is_floating_point() or target.dtype == torch.bool or logits.ndim < 2:
        return None
    if logits.shape[:-1] == target.shape:
        return logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    if logits.ndim > 2 and logits.shape[:1] + logits.shape[2:] == target.shape:
        return logits.movedim(1, -1).reshape(-1, logits.shape[1]), target.reshape(-1)
    return None


def counts(target: Tensor, ignore_index: int = -100) -> Tensor:
    """Return which labels count, bool: those that are a class, so neither negative nor ``ignore_index``.

    Trainings mark what they leave out with -100, with -1, or with a class that is none (255, 0): one rule for all.

    >>> counts(torch.tensor([0, 2, -1, -100])), counts(torch.tensor([0, 255]), ignore_index=255)
    (tensor([ True,  True, False, False]), tensor([ True, False]))
    """
    return (target >= 0) & (target != ignore_index)


def counted(target: Tensor, classes: int) -> Tensor:
    """Return how often each class occurs ``[classes]``; negative labels (-100) are left out."""
    valid = counts(target)
    # (negative labels are clamped to a valid index, where they add 0)
    zeros = torch.zeros(classes, device=target.device)
    return zeros.scatter_add(0, target.clamp(0, classes - 1).reshape(-1), valid.float().reshape(-1))
