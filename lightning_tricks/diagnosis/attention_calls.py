"""What attention may look at in a training step: the masks of its calls, recorded while the step runs.

They are taken where they act: in the call of ``multi_head_attention_forward`` or ``scaled_dot_product_attention``, or
in the scores that a softmax gets, for attention that is written by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.diagnosis.recorded_calls import RecordedCalls

_HIDDEN = -100.0  # scores so far below others have no weight in 32 bits
_FEWEST = 3  # elements of a sequence

_SOFTMAX: frozenset[Any] = frozenset({F.softmax, torch.softmax, Tensor.softmax})


@dataclass(frozen=True)
class AttentionMask:
    """A mask of one call.

    Args:
        where: the function that it is given to.
        seen: whether any query may look at an element, ``[rows, S]``; rows are samples, or samples and heads.
        added: for numbers that are added to scores and are 0 and 1 only, where they are 1, ``[rows, L, S]``.
    """

    where: str
    seen: Tensor
    added: Tensor | None = None


class AttentionMasks(RecordedCalls[AttentionMask]):
    """Records the masks of attention while it is entered.

    Example:
        >>> attention, x = torch.nn.MultiheadAttention(4, 1, batch_first=True), torch.zeros(1, 3, 4)
        >>> with AttentionMasks() as masks:
        ...     _ = attention(x, x, x, key_padding_mask=torch.tensor([[False, False, True]]))
        >>> [mask.seen.tolist() for mask in masks.found]
        [[[True, True, False]]]
    """

    def read(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterable[AttentionMask]:
        """Return the masks of a call."""
        reader = _READERS.get(func)
        return [] if reader is None else reader(args, kwargs)


def _of_heads(args: Any, kwargs: Any) -> list[AttentionMask]:
    given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs).arguments
    padding, between = given.get("key_padding_mask"), given.get("attn_mask")
    found = []
    if padding is not None and padding.ndim == 2:
        found.append(_mask("key_padding_mask", padding[:, None], hidden=True))
    if between is not None:
        found.append(_mask("attn_mask of MultiheadAttention", between, hidden=True))
    return [mask for mask in found if mask is not None]


def _of_product(args: Any, kwargs: Any) -> list[AttentionMask]:
    between = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
    found = None if between is None else _mask("attn_mask of scaled_dot_product_attention", between, hidden=False)
    return [] if found is None else [found]


def _of_scores(args: Any, kwargs: Any) -> list[AttentionMask]:
    scores, axis = args[0] if args else kwargs["input"], kwargs.get("dim", args[1] if len(args) > 1 else None)
    if axis is None or scores.ndim < 2 or scores.shape[axis] < _FEWEST:
        return []
    scores = scores.detach().movedim(axis, -1)
    seen = scores > _HIDDEN + scores.amax(-1, keepdim=True).clamp(min=_HIDDEN)
    return [] if bool(seen.all()) else [AttentionMask("softmax", _by_key(seen))]


def _mask(where: str, mask: Tensor, *, hidden: bool) -> AttentionMask | None:
    """Read a mask ``[..., L, S]``.

    Args:
        where: it is given.
        mask: booleans, or numbers that are added.
        hidden: whether True stands for what is hidden.
    """
    if mask.ndim < 2 or mask.shape[-1] < _FEWEST:
        return None
    mask = mask.detach()[None] if mask.ndim == 2 else mask.detach()  # (one for all samples)
    if mask.dtype == torch.bool:
        return AttentionMask(where, _by_key(~mask if hidden else mask))
    ones = mask == 1
    zero_or_one = bool((ones | (mask == 0)).all()) and bool(ones.any()) and not bool(ones.all())
    rows = ones.reshape(-1, *ones.shape[-2:]) if zero_or_one else None
    return AttentionMask(where, _by_key(mask > _HIDDEN), rows)


def _by_key(seen: Tensor) -> Tensor:
    """Return ``[rows, S]`` of ``[rows, ..., S]``: whether any query sees an element."""
    return seen.reshape(len(seen), -1, seen.shape[-1]).any(1) if seen.ndim > 2 else seen.clone()


_READERS: dict[Any, Callable[[Any, Any], list[AttentionMask]]] = {
    F.multi_head_attention_forward: _of_heads,
    F.scaled_dot_product_attention: _of_product,
    **dict.fromkeys(_SOFTMAX, _of_scores),
}
