"""What the raw inputs alone say about targets: an answer from the nearest other samples, beside that of the network.

A classifier that does clearly worse than a vote of neighbours, late in a run, does not use what its inputs say: a head
that nobody trains, a learning rate that is a thousand times too small. Where neighbours say nothing, as of large images
or of text, nothing follows. torch only, no host read.

Reference: Cover and Hart, "Nearest neighbor pattern classification", 1967.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def features_beside(rows: Mapping[str, Tensor], inputs: Tensor | None) -> Tensor:
    """Return ``features_of`` the inputs beside rows of outputs; NaN where a row is not one sample of them, ``[n, 64]``.

    Args:
        rows: as of ``prediction_rows.rows_of``.
        inputs: of a batch; None where they are not known.
    """
    first, target = next(iter(rows.values())), rows.get("values", rows.get("target"))
    if inputs is None or target is None or len(inputs) != len(first) or inputs.data_ptr() == target.data_ptr():
        return torch.full((len(first), WIDTH), torch.nan, device=first.device)
    return features_of(inputs)


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


def answers(rows: Mapping[str, Tensor], *, logits: bool = False) -> Sums:
    """Return sums for ``skills``, which can be added over processes: each asks the neighbours among its own samples.

    Nothing for several labels at once and for numbers: there outputs and answers of neighbours have no scale in common.

    Args:
        rows: as of ``prediction_rows.rows_of``, and ``features_beside`` them, NaN where they are not known.
        logits: outputs are known to be no probabilities.
    """
    if "output" in rows and rows["output"].shape[1] != 1:
        return {}
    outputs, target = _classes(rows, logits)
    features, label = rows["inputs"], target.clamp(min=0, max=outputs.shape[1] - 1)
    shown = spread(len(features), _ROWS, features.device)
    known, few = torch.isfinite(features).all(), len(shown) <= _TWINS + _NEIGHBOURS + 1
    counted = counts(target) & known if not few else torch.zeros_like(target, dtype=torch.bool)
    own = {
        "labels": _by_class(label, counted, outputs.shape[1]),
        "network": (counted & (outputs.argmax(1) == label)).sum().float(),
        "unknown": (~known).float() + float(few),
    }
    if few:
        return {**own, "labels_shown": torch.zeros_like(own["labels"]), "neighbours": torch.zeros_like(own["network"])}
    label, counted = label[shown], counted[shown]
    vote = label[nearest(torch.where(known, features[shown], 0.0))].mode(1).values
    return {
        **own,
        "labels_shown": _by_class(label, counted, outputs.shape[1]),
        "neighbours": (counted & (vote == label)).sum().float(),
    }


def skills(total: Sums) -> Tensor:
    """Return the skill of the network and that of neighbours, ``[2]``; NaN where they are not known.

    The skill is the accuracy above that of the commonest label, as a share of what is possible.

    Args:
        total: of ``answers``, over all processes.
    """
    if not total:
        return torch.full((2,), torch.nan)
    return torch.stack(
        [
            _above_the_commonest(total["network"], total["labels"], total["unknown"]),
            _above_the_commonest(total["neighbours"], total["labels_shown"], total["unknown"]),
        ]
    )


def _above_the_commonest(right: Tensor, labels: Tensor, unknown: Tensor) -> Tensor:
    asked, commonest = labels.sum(), labels.max()
    there = (unknown == 0) & (commonest < asked)
    return torch.where(there, (right - commonest) / (asked - commonest).clamp(min=1), torch.nan)


def _by_class(label: Tensor, counted: Tensor, classes: int) -> Tensor:
    return torch.zeros(classes, device=label.device).scatter_add(0, label, counted.float())


def _classes(rows: Mapping[str, Tensor], logits: bool) -> tuple[Tensor, Tensor]:
    """Return outputs ``[n, K]`` and class numbers ``[n]``, also of one output and one label in each row."""
    if "logits" in rows:
        return rows["logits"], rows["target"]
    output = rows["output"].float()
    inside = ((output >= 0) & (output <= 1)).all()
    return two_classes(output, rows["values"].float(), inside & (not logits))
