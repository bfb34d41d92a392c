"""Masks of attention as they are recorded, against what attention really depends on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.attention_calls import AttentionMasks

N, T, D, H = 3, 5, 8, 2
HIDDEN = torch.zeros(N, T, dtype=torch.bool)
HIDDEN[0, 3:], HIDDEN[1, :2], HIDDEN[2, 1] = True, True, True


def heads(x: Tensor) -> Tensor:
    return x.reshape(len(x), T, H, D // H).transpose(1, 2)


def product(mask: Tensor) -> Any:
    return lambda x: F.scaled_dot_product_attention(heads(x), heads(x), heads(x), attn_mask=mask[:, None, None])


def by_hand(value: float, softmax: Any) -> Any:
    def attend(x: Tensor) -> Tensor:
        scores = (heads(x) @ heads(x).transpose(-2, -1)).masked_fill(HIDDEN[:, None, None], value)
        return softmax(scores) @ heads(x)

    return attend


def multihead(**more: Any) -> Any:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(D, H, batch_first=True)
    return lambda x: attention(x, x, x, **more)[0]


def pooled(x: Tensor) -> Tensor:
    return (x.sum(2).masked_fill(HIDDEN, -1e9).softmax(1)[..., None] * x).sum(1)


WAYS: dict[str, Any] = {
    "key_padding_mask": multihead(key_padding_mask=HIDDEN),
    "key_padding_mask of numbers": multihead(key_padding_mask=torch.zeros(N, T).masked_fill(HIDDEN, -torch.inf)),
    "a mask for each head": multihead(attn_mask=HIDDEN[:, None, None].expand(N, H, T, T).reshape(N * H, T, T)),
    "an encoder layer": nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True),
    "sdpa, True for what is seen": product(~HIDDEN),
    "sdpa, numbers": product(torch.zeros(N, T).masked_fill(HIDDEN, torch.finfo(torch.float32).min)),
    "Tensor.softmax": by_hand(-torch.inf, lambda s: s.softmax(-1)),
    "F.softmax": by_hand(-1e9, lambda s: F.softmax(s, dim=-1)),
    "torch.softmax": by_hand(-1e4, lambda s: torch.softmax(s, 3)),
    "nn.Softmax": by_hand(-1e9, nn.Softmax(dim=-1)),
    "pooling": pooled,
}


def depends(attend: Any) -> Tensor:
    """An oracle: which places change the outputs of other places of their row, ``[n, T]``."""
    x = torch.randn(N, T, D, generator=torch.Generator().manual_seed(1))
    found = torch.zeros(N, T, dtype=torch.bool)
    for place in range(T):
        other = x.clone()
        other[:, place] += 1.0
        change = (attend(x) - attend(other)).abs()
        if change.ndim == 3:  # [n, T, d]: without the place itself, whose query changes
            change = change[:, torch.arange(T) != place]
        elif change.ndim == 4:
            change = change[:, :, torch.arange(T) != place]
        found[:, place] = change.flatten(1).amax(1) > 0
    return found


@pytest.mark.parametrize("name", WAYS)
def test_what_is_recorded_is_what_attention_depends_on(name: str) -> None:
    attend = WAYS[name]
    if name == "an encoder layer":
        layer = attend
        attend = lambda x: layer(x, src_key_padding_mask=HIDDEN)  # noqa: E731
    with AttentionMasks() as masks:
        attend(torch.randn(N, T, D))
    seen = masks.found[0].seen
    assert torch.equal(seen.reshape(N, -1, T).any(1), depends(attend))
    assert masks.found[0].added is None


def test_numbers_of_0_and_1_are_told_from_those_that_hide() -> None:
    x, ones = torch.zeros(N, T, D), torch.ones(T, T).tril()
    with AttentionMasks() as masks:
        multihead(attn_mask=ones)(x)
        multihead(key_padding_mask=HIDDEN.float())(x)
        product(HIDDEN.float())(x)
        multihead(attn_mask=torch.zeros(T, T))(x)
        multihead(attn_mask=0.5 * ones)(x)
    forms = [None if mask.added is None else mask.added.shape for mask in masks.found]
    assert forms == [(1, T, T), (N, 1, T), (N, 1, T), None, None]
    assert all(bool(mask.seen.all()) for mask in masks.found)


def test_a_softmax_without_a_mask_and_calls_outside_are_not_recorded() -> None:
    x = torch.randn(N, T, D)
    with AttentionMasks() as masks:
        x.softmax(-1)
        multihead()(x)
        F.scaled_dot_product_attention(x, x, x, is_causal=True)
        torch.tensor([[0.0, -torch.inf]]).softmax(1)
    by_hand(-1e9, nn.Softmax(-1))(x)
    assert masks.found == []
