"""What is logged of single tensors at a logged step, from a bounded sample of each: update ratios, histograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_tricks.numerics.norms import tensor_norms
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.subset import bounded_sample
from lightning_tricks.optimizer_step.logbook import Page

_HISTOGRAM_SAMPLE = 16384


def weight_samples(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of at most 65,536 elements of each parameter, of this rank's part."""
    return [bounded_sample(local(p)).clone() for p in parameters]


@torch.no_grad()
def moves_and_sizes(before: Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return ``||w_new - w||`` and ``||w||`` of this rank's part of each parameter, ``[P]`` each."""
    after = [bounded_sample(local(p)) for p in parameters]
    # (the difference of two neighbours in bfloat16 has more digits than bfloat16)
    wide = [torch.promote_types(a.dtype, torch.float32) for a in after]
    moves = tensor_norms([a.to(t) - b.to(t) for a, b, t in zip(after, before, wide, strict=True)])
    return moves, tensor_norms(list(before))


def update_ratio(moves: Tensor, sizes: Tensor) -> Tensor:
    """Return ``moves / sizes``, ``[P]``; NaN for a parameter that was all zero."""
    return torch.where(sizes > 0, moves / sizes, torch.nan)


def histogram_sample(gradient: Tensor, to_true: Tensor | None) -> Tensor:
    """Return at most 16,384 elements of a gradient as float32; of complex numbers both parts.

    Args:
        to_true: 0-d, what it has to be multiplied by to be the true one; None for 1.
    """
    sample = bounded_sample(gradient, _HISTOGRAM_SAMPLE)
    sample = torch.view_as_real(sample.resolve_conj()).reshape(-1) if sample.is_complex() else sample
    return sample.float() if to_true is None else sample.float() * to_true


def histogram_samples(page: Page) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each parameter that has a gradient, and a sample of the true one."""
    to_true = page.to_true()
    for i, values in zip(page.present, page.values(), strict=True):
        yield page.view.names[i], histogram_sample(values, to_true)
