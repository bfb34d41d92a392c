from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.dry_run.storages import as_bytes, checksum
from tests.laws.strategies import law


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
