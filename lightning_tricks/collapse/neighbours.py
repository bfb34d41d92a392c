"""What the raw inputs alone say about targets: an answer from the nearest other samples, beside that of the network.

A classifier that does clearly worse than a vote of neighbours, late in a run, does not use what its inputs say: a head
that nobody trains, a learning rate that is a thousand times too small. Where neighbours say nothing, as of large images
or of text, nothing follows. torch only, no host read.

Reference: Cover and Hart, "Nearest neighbor pattern classification", 1967.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.collapse.pairs import two_classes
from lightning_tricks.modules.labels import counts
from lightning_tricks.numerics.subset import spread

Sums = dict[str, Tensor]

WIDTH = 64  # numbers of a sample that are compared
_ROWS = 256
_NEIGHBOURS = 5
_TWINS = 1  # the nearest one is left out: it may be the same sample, from the last epoch or drawn twice


def features_of(inputs: Tensor) -> Tensor:
    """Return samples ``[n, ...]`` as ``[n, 64]``: means of consecutive numbers, or how often each token occurs.

    >>> features_of(torch.ones(2, 3)).shape, features_of(torch.tensor([[5, 5, 7]]))[0, 5:8]
    (torch.Size([2, 64]), tensor([2., 0., 1.]))
    """
    flat = inputs.detach().reshape(len(inputs), -1)
    if not flat.is_floating_point():
        places = flat.long() % WIDTH
        return torch.zeros(len(flat), WIDTH, device=flat.device).scatter_add_(
            1, places, torch.ones_like(places).float()
        )
    flat = flat.float().nan_to_num(0.0, 0.0, 0.0)
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


def compared(rows: Mapping[str, Tensor], add: Callable[[Sums], Sums], *, logits: bool = False) -> Tensor:
    """Return the skill of the network and that of neighbours on the same samples, ``[2]``; NaN where it is not known.

    The skill is the accuracy above that of the commonest label, as a share of what is possible. Of several labels at
    once and of numbers it is not known: there outputs and answers of neighbours have no scale in common.

    Args:
        rows: as of ``prediction_rows.rows_of``, and ``features_of`` the inputs, NaN where they are not known.
        add: returns sums over all processes.
        logits: outputs are known to be no probabilities.
    """
    features = rows["inputs"]
    if "output" in rows and rows["output"].shape[1] != 1:
        return torch.full((2,), torch.nan, device=features.device)
    shown = spread(len(features), _ROWS, features.device)
    features = features[shown]
    known = torch.isfinite(features).all()
    if len(features) <= _TWINS + _NEIGHBOURS + 1:
        known, places = torch.zeros_like(known), torch.zeros(len(features), _NEIGHBOURS, dtype=torch.int64).to(shown)
    else:
        places = nearest(torch.where(known, features, 0.0))
    outputs, target = _classes({name: tensor[shown] for name, tensor in rows.items()}, add, logits)
    valid = counts(target) & known
    label = target.clamp(min=0, max=outputs.shape[1] - 1)
    vote = label[places].mode(1).values
    own = {
        "labels": torch.zeros(outputs.shape[1], device=outputs.device).scatter_add(0, label, valid.float()),
        "network": (valid & (outputs.argmax(1) == label)).sum().float(),
        "neighbours": (valid & (vote == label)).sum().float(),
        "unknown": (~known).float(),
    }
    total = add(own)
    asked, commonest = total["labels"].sum(), total["labels"].max()
    there = (total["unknown"] == 0) & (commonest < asked)
    skills = ((total[name] - commonest) / (asked - commonest).clamp(min=1) for name in ("network", "neighbours"))
    return torch.stack([torch.where(there, skill, torch.nan) for skill in skills])


def _classes(rows: Mapping[str, Tensor], add: Callable[[Sums], Sums], logits: bool) -> tuple[Tensor, Tensor]:
    """Return outputs ``[n, K]`` and class numbers ``[n]``, also of one output and one label in each row."""
    if "logits" in rows:
        return rows["logits"], rows["target"]
    output = rows["output"].float()
    beyond = add({"beyond": ((output < 0) | (output > 1)).sum().float()})["beyond"]
    return two_classes(output, rows["values"].float(), (beyond == 0) & (not logits))
