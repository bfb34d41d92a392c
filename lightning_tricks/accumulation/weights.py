"""What a micro-batch weighs: the number over which its mean loss was taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from lightning_tricks.errors import TrickError, message
from lightning_tricks.modules.batches import Samples, samples_of
from lightning_tricks.modules.labels import counts
from lightning_tricks.numerics import host

Weight = int | float | Tensor


def equal(batch: Any) -> Weight:
    """Return 1: every micro-batch counts the same."""
    return 1


def samples(batch: Any) -> int:
    """Return how many samples a batch holds: what it says itself, or what its tensors and lists agree on.

    Raises:
        TrickError: it cannot be told.

    >>> import torch
    >>> samples({"x": torch.zeros(3, 5), "y": torch.zeros(3)})
    3
    """
    return read_samples(batch).count


def read_samples(batch: Any, records: bool | None = None) -> Samples:
    """Return how many samples a batch holds, and how it was read; ``records`` as in ``samples_of``."""
    try:
        return samples_of(batch, records)
    except (ValueError, RecursionError) as error:
        raise TrickError(
            f"GradientAccumulation: the number of samples is not known: a batch of type {type(batch).__name__} "
            f"{error}. Pass weight=, a function of the batch that counts them, or weight='equal'."
        ) from error


def tokens(batch: Any) -> Weight:
    """Return the number of labels over which a mean cross entropy is taken, those that are not negative (-100).

    Looked for in this order: ``batch["labels"]`` or ``batch.labels``; ``attention_mask`` likewise (what is not 0); the
    last tensor of whole numbers in a tuple or list. A model that shifts the labels itself takes its mean over one
    position less per row: pass a function then.

    Raises:
        TrickError: none of them is there.

    >>> import torch
    >>> tokens({"labels": torch.tensor([[5, 7, -100]])})
    tensor(2)
    """
    labels, mask = _entry(batch, "labels"), _entry(batch, "attention_mask")
    if labels is not None:
        return counts(labels).sum()
    if mask is not None:
        return (mask != 0).sum()  # (a sum in bfloat16 would be rounded to 8 bits)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        whole = [x for x in batch if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex())]
        if whole:
            return counts(whole[-1]).sum()
    raise TrickError(
        f"GradientAccumulation(weight='tokens'): a batch of type {type(batch).__name__} has no 'labels', no "
        "'attention_mask' and no tensor of whole numbers. Pass weight=, a function of the batch that counts them."
    )


def as_weight(value: Any) -> Weight:
    """Return a weight that can be added up without loss: a number where the host has it, else in float32 at least.

    Raises:
        TrickError: it is not one number, or is negative or not finite.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.detach().reshape(())
        known = host.value_on_host(value)
        if known is None:
            on_device: Tensor = value.float() if value.is_floating_point() else value
            return on_device
        value = known
    if isinstance(value, int) and value >= 0:
        return value
    if isinstance(value, Real) and 0 <= float(value) < math.inf:
        return float(value)
    shown = tuple(value.shape) if isinstance(value, Tensor) else value
    rule = "a micro-batch must weigh a number >= 0"
    raise TrickError(message("GradientAccumulation", "weight", shown, rule, "Return a count"))


WEIGHTS: dict[str, Callable[[Any], Weight]] = {"equal": equal, "samples": samples, "tokens": tokens}


def _entry(batch: Any, name: str) -> Tensor | None:
    found = batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)
    return found if isinstance(found, Tensor) else None
