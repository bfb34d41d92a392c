from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks.dry_run.tensors import CopyOnWrite, StorageRecord

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
