from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_tricks import TrickError
from lightning_tricks.accumulation.split import is_out_of_memory, merged_outputs, split_samples, split_sequence

Pair = namedtuple("Pair", "x y")


@dataclass
class Named:
    x: Tensor
    note: str


@given(n=st.integers(1, 40), parts=st.integers(1, 40))
def test_parts_are_torchs_tensor_split(n: int, parts: int) -> None:
    x = torch.arange(n)
    if parts > n:
        with pytest.raises(TrickError, match=f"cannot be split into {parts} parts"):
            split_samples(x, parts)
        return
    expected = torch.tensor_split(x, parts)
    assert [part.tolist() for part in split_samples(x, parts)] == [part.tolist() for part in expected]


def test_every_form_of_a_batch_keeps_its_form() -> None:
    x, y = torch.arange(4.0).reshape(4, 1), torch.arange(4)
    first, second = split_samples({"x": x, "names": list("abcd"), "deep": (y, 7, "text"), "scalar": torch.tensor(3)}, 2)
    assert first["names"] == ["a", "b"] and second["names"] == ["c", "d"]
    assert second["deep"][0].tolist() == [2, 3] and second["deep"][1:] == (7, "text")
    assert int(first["scalar"]) == 3
    pair = split_samples(Pair(x, y), 2)[1]
    assert isinstance(pair, Pair) and pair.y.tolist() == [2, 3]
    named = split_samples(Named(x, "kept"), 4)[3]
    assert (named.x.tolist(), named.note) == ([[3.0]], "kept")


def test_parts_share_the_batchs_memory() -> None:
    x = torch.zeros(4, 2)
    assert split_samples(x, 2)[1].data_ptr() == x[2:].data_ptr()


def test_sequences_are_cut_along_their_second_dimension() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert [part[0].tolist() for part in split_sequence((x, torch.zeros(2)), 3)] == [[[0], [3]], [[1], [4]], [[2], [5]]]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("HIP out of memory. Tried to allocate"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_full_devices_are_known(error: BaseException, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_outputs_are_merged_by_rows() -> None:
    parts: list[dict[str, Any]] = [{"loss": None, "rows": torch.zeros(n, 2), "one": torch.tensor(n)} for n in (2, 1)]
    merged = merged_outputs(parts, [2, 1], torch.tensor(0.5))
    assert merged["rows"].shape == (3, 2)
    assert (float(merged["loss"]), int(merged["one"])) == (0.5, 1)
