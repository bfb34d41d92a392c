from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.dry_run.tensors import CopyOnWrite, StorageRecord, as_bytes, checksum
from tests.laws.strategies import law

WRITES: dict[str, Any] = {
    "in place": lambda t: t.mul_(2),
    "data": lambda t: t.data.add_(1),
    "a view": lambda t: t.view(-1)[3:5].fill_(1.0),
    "an index": lambda t: t.__setitem__((0, 1), 5.0),
    "a transpose": lambda t: t.t().copy_(torch.ones(4, 4)),
    "out": lambda t: torch.add(t, 1, out=t),
    "foreach": lambda t: torch._foreach_add_([torch.ones(1), t], 1.0),
    "an optimizer": lambda t: step(t, foreach=True),
    "a fused optimizer": lambda t: step(t, fused=True),
    "a scatter": lambda t: t.index_add_(0, torch.tensor([0]), torch.ones(1, 4)),
    "random numbers": lambda t: t.normal_(),
    "a swap of values": lambda t: torch.nn.init.orthogonal_(t),
}


def step(weight: torch.Tensor, **options: Any) -> None:
    parameter = torch.nn.Parameter(weight)  # shares its memory
    parameter.grad = torch.ones_like(weight)
    torch.optim.AdamW([parameter], **options).step()


@pytest.mark.parametrize("how", WRITES)
def test_a_watched_storage_is_copied_before_any_write(how: str) -> None:
    weight = torch.randn(4, 4)
    before = weight.clone()
    record = StorageRecord(weight.untyped_storage(), on_host=False)
    record.note_checksum()
    with CopyOnWrite([record]), torch.no_grad():
        _ = weight @ weight + weight.sum()
        assert record.saved is None, "reading is no writing"
        WRITES[how](weight)
    assert record.saved is not None
    assert not torch.equal(weight, before)
    assert not record.intact()
    record.restore()
    assert torch.equal(weight, before)
    assert record.intact()


def test_a_storage_that_was_freed_or_grown_comes_back() -> None:
    weight = torch.arange(10.0)
    record = StorageRecord(weight.untyped_storage(), on_host=False)
    record.copy()
    weight.untyped_storage().resize_(0)
    record.restore()
    assert weight.tolist() == list(range(10))


@given(
    size=st.integers(1, 5000),
    seed=st.integers(0, 99),
    change=st.sampled_from(["one byte", "roll", "swap", "reverse", "negate"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.float64]),
)
@law(150)
def test_a_checksum_changes_with_the_bytes(size: int, seed: int, change: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (size * dtype.itemsize,), generator=generator, dtype=torch.uint8)
    storage = values.untyped_storage()
    before, kept = checksum(storage), values.clone()
    assert torch.equal(before, checksum(storage)), "it reads only"
    place = int(torch.randint(len(values), (1,), generator=generator))
    if change == "one byte":
        values[place] += 1
    elif change == "roll":
        values.copy_(values.roll(dtype.itemsize * 4))
    elif change == "swap":
        other = len(values) - 1 - place
        values[[place, other]] = values[[other, place]]
    elif change == "reverse":
        values.copy_(values.flip(0))
    else:
        values.neg_()
    assert torch.equal(before, checksum(storage)) is torch.equal(values, kept)
    assert torch.equal(as_bytes(storage), values)
