"""What a micro-batch weighs: the number over which its mean loss was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.errors import TrickError

Weight = int | float | Tensor
IGNORED = -100  # the label that torch's cross_entropy leaves out


def equal(batch: Any) -> Weight:
    """Return 1: every micro-batch counts the same.

    >>> equal([1, 2, 3])
    1
    """
    return 1


def samples(batch: Any) -> int:
    """Return the size of the first dimension of the first tensor in a batch.

    Raises:
        TrickError: there is no tensor with a dimension in it.

    >>> samples({"x": torch.zeros(3, 5), "y": torch.zeros(3)})
    3
    """
    found = _first_size(batch)
    if found is None:
        raise TrickError(
            f"GradientAccumulation: a batch of type {type(batch).__name__} holds no tensor whose first dimension is "
            "the number of samples. Pass weight=, a function of the batch, or weight='equal'."
        )
    return found


def tokens(batch: Any) -> Weight:
    """Return the number of labels over which a mean cross entropy is taken, those that are not -100.

    Looked for in this order: ``batch["labels"]``; ``batch["attention_mask"]`` (its sum); the last tensor of whole
    numbers in a tuple or list. A model that shifts the labels itself takes its mean over one position less per row:
    pass a function then.

    Raises:
        TrickError: none of them is there.

    >>> tokens({"labels": torch.tensor([[5, 7, -100]])})
    tensor(2)
    """
    if isinstance(batch, Mapping):
        if "labels" in batch:
            return _valid(batch["labels"])
        if "attention_mask" in batch:
            return torch.as_tensor(batch["attention_mask"].sum())
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        whole = [x for x in batch if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex())]
        if whole:
            return _valid(whole[-1])
    raise TrickError(
        f"GradientAccumulation(weight='tokens'): a batch of type {type(batch).__name__} has no 'labels', no "
        "'attention_mask' and no tensor of whole numbers. Pass weight=, a function of the batch that counts them."
    )


WEIGHTS: dict[str, Callable[[Any], Weight]] = {"equal": equal, "samples": samples, "tokens": tokens}


def _valid(labels: Tensor) -> Tensor:
    return (labels != IGNORED).sum()


def _first_size(value: Any) -> int | None:
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else None
    if isinstance(value, Mapping):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = list(vars(value).values())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return next((n for n in map(_first_size, value) if n is not None), None)
    return None
