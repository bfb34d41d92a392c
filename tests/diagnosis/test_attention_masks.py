"""SanityCheck on masks of attention: padding that alone is seen, numbers that hide nothing, and what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.attention_masks import padding_only
from tests.diagnosis.problems import N, T, Task, V, failed_of, load, numbers

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTHS = torch.randint(2, T, (N,), generator=numbers(3))
PLACE = torch.arange(T)
IDS = torch.randint(1, V, (N, T), generator=numbers()).masked_fill(LENGTHS[:, None] <= PLACE, 0)
VALUES = torch.randn(N, T, 6, generator=numbers(1)).masked_fill((LENGTHS[:, None] <= PLACE)[..., None], 0.0)
LABELS = (IDS.amax(1) > V - 3).long()

Mask = Callable[[Tensor], Tensor]


class Reader(nn.Module):
    """One answer for a sequence of ids or values, from the first place or a class token."""

    def __init__(self, mask: Mask, *, token: bool = False, time_first: bool = False) -> None:
        super().__init__()
        self.mask, self.token, self.time_first = mask, token, time_first
        self.ids, self.values = nn.Embedding(V, 16), nn.Linear(6, 16)
        self.place, self.first = nn.Parameter(torch.randn(T, 16)), nn.Parameter(torch.randn(1, 1, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 16, batch_first=not time_first)
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        padding = x == 0 if x.ndim == 2 else (x == 0).all(2)
        hidden = self.mask(padding)
        h = (self.ids(x) if x.ndim == 2 else self.values(x)) + self.place
        if self.token:
            h = torch.cat([self.first.expand(len(h), 1, 16), h], 1)
            hidden = F.pad(hidden, (1, 0), value=False)
        if self.time_first:
            return self.out(self.layer(h.transpose(0, 1), src_key_padding_mask=hidden)[0])
        return self.out(self.layer(h, src_key_padding_mask=hidden)[:, 0])


class ByHand(nn.Module):
    """Attention by hand, as in annotated transformers; also as pooling."""

    def __init__(self, seen: Mask, *, pool: bool = False) -> None:
        super().__init__()
        self.seen, self.pool, self.ids = seen, pool, nn.Embedding(V, 16)
        self.place, self.qkv = nn.Parameter(torch.randn(T, 16)), nn.Linear(16, 48)
        self.score, self.out = nn.Linear(16, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, seen = self.ids(x) + self.place, self.seen(x == 0)
        if self.pool:
            return self.out((self.score(h).masked_fill(~seen[..., None], -1e9).softmax(1) * h).sum(1))
        q, k, v = self.qkv(h).chunk(3, -1)
        scores = (q @ k.transpose(1, 2) / 4).masked_fill(~seen[:, None], -1e9)
        return self.out((scores.softmax(-1) @ v)[:, 0])


class Product(ByHand):
    """The same by torch's function, with a mask of booleans or of numbers."""

    def forward(self, x: Tensor) -> Tensor:
        h, seen = self.ids(x) + self.place, self.seen(x == 0)
        q, k, v = self.qkv(h).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None].expand(-1, T, -1))[:, 0])


def failed(net: nn.Module, x: Tensor = IDS) -> dict[str, str]:
    task = Task(net, lambda self, b: F.cross_entropy(self.net(b[0]), b[1]))
    return failed_of("input_matters", task, load(x, LABELS))


def hides(padding: Tensor) -> Tensor:
    return padding


def shows(padding: Tensor) -> Tensor:
    return ~padding


def added(padding: Tensor) -> Tensor:
    return (~padding).float()


ONLY, NOTHING = "attention sees only what is the same", "which are added and hide nothing"
WRONG: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "an encoder": (lambda: Reader(shows), IDS, ONLY),
    "an encoder, padding in front": (lambda: Reader(shows), IDS.flip(1), ONLY),
    "an encoder with time first": (lambda: Reader(shows, time_first=True), IDS, ONLY),
    "a class token": (lambda: Reader(shows, token=True), IDS, ONLY),
    "values in place of ids": (lambda: Reader(shows), VALUES, ONLY),
    "values and a class token": (lambda: Reader(shows, token=True), VALUES, ONLY),
    "attention by hand": (lambda: ByHand(hides), IDS, ONLY),
    "pooling": (lambda: ByHand(hides, pool=True), IDS, ONLY),
    "scaled_dot_product_attention": (lambda: Product(hides), IDS, ONLY),
    "numbers for an encoder": (lambda: Reader(added), IDS, NOTHING),
    "numbers, 1 for padding": (lambda: Reader(lambda p: p.float()), IDS, NOTHING),
    "numbers for scaled_dot_product_attention": (lambda: Product(added), IDS, NOTHING),
}
RIGHT: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "an encoder": (lambda: Reader(hides), IDS),
    "an encoder, padding in front": (lambda: Reader(hides), IDS.flip(1)),
    "an encoder with time first": (lambda: Reader(hides, time_first=True), IDS),
    "a class token": (lambda: Reader(hides, token=True), IDS),
    "values in place of ids": (lambda: Reader(hides), VALUES),
    "attention by hand": (lambda: ByHand(shows), IDS),
    "pooling": (lambda: ByHand(shows, pool=True), IDS),
    "scaled_dot_product_attention": (lambda: Product(shows), IDS),
    "numbers that hide": (lambda: Reader(lambda p: torch.zeros(p.shape).masked_fill(p, -torch.inf)), IDS),
    "numbers of 0 and -1e9": (lambda: Product(lambda p: -1e9 * p.float()), IDS),
    "nothing is hidden": (lambda: Reader(torch.zeros_like), IDS),
    "each row counts its elements": (lambda: Reader(hides), torch.where(IDS > 0, 7, 0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_masks_that_show_padding_alone_or_hide_nothing_fail(name: str) -> None:
    make, x, words = WRONG[name]
    assert words in failed(make(), x).get("inputs matter", "")


@pytest.mark.parametrize("name", RIGHT)
def test_masks_that_may_be_meant_are_left_alone(name: str) -> None:
    make, x = RIGHT[name]
    found = str(failed(make(), x))
    assert "attention" not in found and "added" not in found


@pytest.mark.parametrize("form", ["tril", "triu"])
def test_a_causal_mask_of_numbers_hides_nothing(form: str) -> None:
    class Causal(Reader):
        def forward(self, x: Tensor) -> Tensor:
            ones = torch.ones(T, T)
            return self.out(self.layer(self.ids(x) + self.place, src_mask=getattr(ones, form)()).mean(1))

    found = failed(Causal(hides))
    assert NOTHING in found.get("no look into the future", "")


@pytest.mark.parametrize("seed", range(20))
def test_padding_is_told_by_the_definition(seed: int) -> None:
    """An oracle that goes through the rows one by one."""
    g = numbers(seed)
    ids = torch.randint(1, 6, (4, 6), generator=g)
    lengths = torch.randint(1, 7, (4,), generator=g)
    ids[torch.arange(6) >= lengths[:, None]] = 0
    chosen = ids == 0
    ends = [row.tolist().index(0) if 0 in row.tolist() else 6 for row in ids]
    others = {int(i) for row, end in zip(ids, ends, strict=True) for i in row[:end]}
    counts = {6 - end for end in ends}
    expected = len(counts) > 1 and max(counts) > 1 and len(others) >= 3
    assert padding_only(chosen, ids) is expected
    assert not padding_only(~chosen, ids) or len({int(i) for i in ids[~chosen]}) == 1
    noisy = chosen.clone()
    noisy[0, 0] = True  # (a place of the sequence is chosen as well)
    assert chosen[0, 0] or not padding_only(noisy, ids)
