"""What detectors gather on the device between two checks, and what they make of it. torch only, no host read.

A dict of sums is begun by the first ``add_*`` and closed by ``measured_*``, which returns one vector for the host. Sums
of several processes are added before. Features are counted from their mean, in float32: an uncentred second moment
would lose the variance where the mean is large.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_tricks.collapse import representation, structure
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.subset import subset
from lightning_tricks.numerics.trees import tree_leaves

Sums = dict[str, Tensor]

SKETCH = 128
WIDEST = 65_536  # numbers of a row that are kept, and projected by a matrix
_KEPT = 4096  # of a wider one
_COLUMNS = 16_384


def floating_tensor(output: object) -> Tensor | None:
    """Return the first floating-point tensor in a module's output; None when it holds none."""
    deeper = [x for leaf in tree_leaves(output) for x in (leaf.values() if isinstance(leaf, dict) else [leaf])]
    return next((local(t.detach()) for t in deeper if isinstance(t, Tensor) and t.is_floating_point()), None)


def feature_rows(output: Tensor, most: int) -> Tensor:
    """Return features as rows ``[n, d]``, at most ``most`` of them, spread evenly over samples and tokens.

    ``[n, d]`` as it is; ``[n, tokens, d]`` token by token; images and volumes ``[n, d, ...]`` as means over space.

    >>> feature_rows(torch.zeros(4, 3, 8, 8), 512).shape, feature_rows(torch.zeros(4, 10, 6), 8).shape
    (torch.Size([4, 3]), torch.Size([8, 6]))
    """
    rows = output.flatten(2).mean(2) if output.ndim > 3 else output.reshape(-1, output.shape[-1])
    return subset(rows, most)


def sketch(width: int, size: int, device: torch.device) -> Tensor:
    """Return a fixed random projection ``[width, size]`` that keeps distances on average; the same at every call."""
    # A generator of its own, on the CPU: the same projection on all devices and processes, and the run's numbers stay.
    generator = torch.Generator().manual_seed(0)
    matrix: Tensor = torch.randn(width, size, generator=generator) / float(size) ** 0.5
    return matrix.to(device, non_blocking=True)


def hashed(rows: Tensor, size: int) -> Tensor:
    """Return rows ``[n, size]`` in which each number is added to one place, with a sign; the same ones at every call.

    Scalar products are kept on average, as by ``sketch``, whose matrix would have more numbers than the rows.
    Reference: Charikar et al., "Finding Frequent Items in Data Streams", 2002; Weinberger et al., arXiv:0902.2206.
    """
    generator = torch.Generator().manual_seed(0)
    found = rows.new_zeros(len(rows), size)
    for part in torch.split(rows, _COLUMNS, dim=1):  # (so that no second copy of all rows is made)
        places = torch.randint(size, (part.shape[1],), generator=generator)
        signs = torch.randint(2, (part.shape[1],), generator=generator) * 2 - 1
        found.index_add_(1, places.to(rows.device), part * signs.to(part))
    return found


def projected(rows: Tensor, size: int) -> Tensor:
    """Return rows of at most ``size`` numbers, wider ones through ``sketch``, very wide ones through ``hashed``.

    >>> projected(torch.zeros(2, 5), 3).shape
    torch.Size([2, 3])
    """
    if rows.shape[1] <= size:
        return rows
    return rows @ sketch(rows.shape[1], size, rows.device) if rows.shape[1] <= WIDEST else hashed(rows, size)


def narrowed(rows: Tensor) -> Tensor:
    """Return rows as they are kept for a check: those of more than ``WIDEST`` numbers through ``hashed``."""
    return rows if rows.shape[1] <= WIDEST else hashed(rows, _KEPT)


def most_rows(width: int, least: int, numbers: int) -> int:
    """Return how many rows of a width are kept, so that they hold at most so many numbers; at least ``least``."""
    return max(least, numbers // max(1, width))


def centre(sums: Sums) -> Tensor:
    """Return the mean of the rows that ``add_rows`` has seen, ``[d]``, float32."""
    return sums["rows_total"] / sums["rows_count"].clamp(min=1)


def add_rows(sums: Sums, rows: Tensor) -> None:
    """Add what the mean of features ``[n, d]`` is made of: their moments are then counted from it."""
    add_to(sums, {"rows_count": torch.full((), float(len(rows)), device=rows.device), "rows_total": rows.sum(0)})


def add_features(sums: Sums, rows: Tensor, shift: Tensor, label: Tensor) -> None:
    """Add features ``[n, d]``.

    Args:
        sums: written in place.
        rows: float32.
        shift: ``[d]``, near their mean, taken off before squaring; the same for all calls and processes.
        label: their classes, negative where there are none, ``[n]``.
    """
    unit, there = (x.float() for x in representation.unit_rows(rows))
    small = projected(rows - shift, SKETCH)
    new = {
        "count": torch.full((), float(len(rows)), device=rows.device),
        "nonzero": there.sum(),
        "unit_sum": unit.sum(0),
        "unit_squares": unit.square().sum(0),
        "square": rows.square().sum(),
        "total": small.sum(0),
        "second": small.T @ small,
    }
    add_to(sums, new)
    structure.add_structure(sums, rows, small, label)


def measured_features(sums: Sums) -> Tensor:
    """Return the values of ``structure``, count, sphere variance, std ratio, mean cosine, least variance, size and
    covariance ``[k * k]``, in one vector.

    The size is the root of the whole variance: how far features are from their mean.
    """
    s = {name: value.double() for name, value in sums.items()}
    covariance = representation.covariance(s["total"], s["second"], s["count"])
    # scaled to the largest variance, so that nothing is lost on the way through float32
    largest = covariance.diagonal().max().clamp(min=torch.finfo(torch.float64).tiny)
    scalars = [
        s["count"],
        representation.sphere_variance(s["unit_sum"], s["nonzero"], s["count"]),
        representation.embedding_std(s["unit_sum"], s["unit_squares"], s["nonzero"]),
        representation.mean_cosine(s["unit_sum"], s["nonzero"]),
        representation.rounding(s["square"] / s["count"].clamp(min=1)) / largest,
        covariance.trace().clamp(min=0.0).sqrt(),
    ]
    vector = torch.cat([torch.stack(scalars), (covariance / largest).reshape(-1)])
    return torch.cat([structure.measured_structure(sums, s["count"], covariance), vector])


def read_features(vector: list[float]) -> tuple[dict[str, float], list[float]]:
    """Return the values by name, and the eigenvalues of the covariance, from what ``measured_features`` sent.

    The rank is compared with what is possible for classes and for halves, and hidden values say what of the variance of
    directions each half has.
    """
    first, scalars = vector[: len(structure.STRUCTURE)], vector[len(structure.STRUCTURE) :]
    count, variance, std, cosine, least, extent, *matrix = scalars
    size = round(len(matrix) ** 0.5)
    covariance = torch.tensor(matrix, dtype=torch.float64).reshape(size, size)
    finite = bool(torch.isfinite(covariance).all())
    eigenvalues = representation.spectrum(covariance, least) if finite else torch.zeros(size, dtype=torch.float64)
    rank = float(representation.effective_rank(eigenvalues))
    possible = structure.possible_rank(size, count, *first[2:])
    halves = structure.half_rank_share(covariance, least) if finite else 0.0
    share = rank_share = min(1.0, rank / possible)
    # (classes on a line have a rank of 1 of few: that is collapsed all the same)
    if 1 < possible < min(size, count - 1):
        share = min(share, (rank - 1) / (possible - 1))
    values = {
        "sphere_variance": variance,
        "effective_rank": rank,
        "rank_share": rank_share,
        "embedding_std": std,
        "mean_cosine": cosine,
        "finite": float(finite),
        "_size": extent,
        "_sphere_variance": max(variance, *first[:2]),
        "_rank_share": max(share, halves),
    }
    return values, eigenvalues.tolist()


def add_to(sums: Sums, new: Sums) -> None:
    """Add new sums to those that are there."""
    for name, value in new.items():
        sums[name] = sums[name] + value if name in sums else value


PREDICTION: tuple[str, ...] = (
    "skill",
    "input_dependence",
    "class_divergence",
    "macro_f1_gain",
    "macro_f1",
    "predicted_classes",
    "label_classes",
    "top_share",
    "top_class",
    "cross_entropy",
    "label_entropy",
    "balanced_skill",
    "soft_balanced_skill",
    "_count",
)
CLASSES = ("_score", "_spread", "moved_skill", *PREDICTION)
