"""Which rows are alike by their raw inputs: the nearest ones, and those with the same ids. torch only, no host read.

Reference: Cover and Hart, "Nearest neighbor pattern classification", 1967; Micci-Barreca, "A preprocessing scheme for
high-cardinality categorical attributes", 2001.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 64  # numbers of a sample that are compared
_NEIGHBOURS = 5
_TWINS = 1  # the nearest one is left out: it may be the same sample, from the last epoch or drawn twice
FEWEST = _TWINS + _NEIGHBOURS + 2  # rows among which neighbours are looked for
_AGREES = 0.5  # of the rows: ids that are the target itself, as of the centres that a loss looks up


def features_of(inputs: Tensor) -> Tensor:
    """Return samples ``[n, ...]`` as ``[n, 64]``: means of consecutive numbers, or how often each token occurs."""
    flat = inputs.detach().reshape(len(inputs), -1)
    if not flat.is_floating_point():
        places = flat.long() % WIDTH
        return torch.zeros(len(flat), WIDTH, device=flat.device).scatter_add_(
            1, places, torch.ones_like(places).float()
        )
    flat = flat.float().nan_to_num(0.0, 0.0, 0.0)
    if flat.shape[1] % WIDTH == 0:  # (the same, faster)
        return flat.reshape(len(flat), WIDTH, -1).mean(2)
    if flat.shape[1] > WIDTH:
        return F.adaptive_avg_pool1d(flat[:, None], WIDTH)[:, 0]
    return F.pad(flat, (0, WIDTH - flat.shape[1]))


def nearest(features: Tensor) -> Tensor:
    """Return the indices of the five nearest other rows of each, without the very nearest, ``[n, 5]``.

    Args:
        features: ``[n, d]``, n of seven or more; each column counts alike.
    """
    std, mean = torch.std_mean(features, 0)
    x = (features - mean) / torch.where(std > 0, std, 1.0)
    square = x.square().sum(1)
    apart = square[:, None] + square - 2 * x @ x.T
    apart.fill_diagonal_(torch.inf)
    return apart.topk(_TWINS + _NEIGHBOURS, dim=1, largest=False).indices[:, _TWINS:]


def weights_of_nearest(features: Tensor, target: Tensor) -> Tensor:
    """Return 1 for the nearest rows of each row, and 0 for the others, ``[n, n]``; all 0 for too few rows.

    Args:
        features: ``[n, d]``.
        target: ``[n]``, which is not looked at.
    """
    weights = torch.zeros(len(features), len(features), device=features.device)
    return weights if len(features) < FEWEST else weights.scatter_(1, nearest(features), 1.0)


def weights_of_ids(ids: Tensor, target: Tensor) -> Tensor:
    """Return weights with which other rows make the mean of each id, averaged over columns, ``[n, n]``.

    A mean of few rows is drawn to that of all: it has one more row, which is that mean (a target encoding, without the
    row itself).

    Args:
        ids: ``[n, c]``.
        target: ``[n]``. A column that is mostly the target itself is left out.

    >>> weights_of_ids(torch.tensor([[1], [1], [2]]), torch.tensor([0, 1, 0]))
    tensor([[0.0000, 0.7500, 0.2500],
            [0.7500, 0.0000, 0.2500],
            [0.5000, 0.5000, 0.0000]])
    """
    count = len(ids)
    weights = torch.zeros(count, count, device=ids.device)
    others = 1 - torch.eye(count, device=ids.device)
    for column in ids.unbind(1):
        same = (column[:, None] == column) * others
        mean = (same + others / max(1, count - 1)) / (same.sum(1, keepdim=True) + 1)
        weights += torch.where((column == target).float().mean() > _AGREES, 0.0, mean)
    return weights
