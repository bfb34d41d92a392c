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
        if not target.is_floating_point() or target.ndim < 2 or target.shape[-1] == 1:
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


def counted(target: Tensor, classes: int) -> Tensor:
    """Return how often each class occurs ``[classes]``; negative labels (-100) are left out.

    >>> counted(torch.tensor([0, 2, 2, -100]), 3)
    tensor([1., 0., 2.])
    """
    valid = target >= 0
    zeros = torch.zeros(classes, device=target.device)
    return zeros.scatter_add(0, target.clamp(0, classes - 1).reshape(-1), valid.float().reshape(-1))
