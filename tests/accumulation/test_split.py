from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from lightning_tricks import TrickError
from lightning_tricks.accumulation.split import merged_outputs, split_samples, split_sequence
from lightning_tricks.errors import is_out_of_memory

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


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Tensor
    late: Any = field(init=False, default=None)


class Molecules:
    """Only it knows which atoms belong to which of its molecules."""

    def __init__(self) -> None:
        self.atoms = torch.zeros(31, 5)

    def __len__(self) -> int:
        return 4


class Graphs:
    """As a batch of torch_geometric."""

    def __init__(self, graphs: list[Tensor]) -> None:
        self.x, self.num_graphs, self.graphs = torch.cat(graphs), len(graphs), graphs

    @classmethod
    def from_data_list(cls, graphs: list[Tensor]) -> Graphs:
        return cls(graphs)

    def __getitem__(self, which: slice) -> list[Tensor]:
        return self.graphs[which]


def test_batches_of_lists_are_split_by_their_entries() -> None:
    images, targets = (
        [torch.zeros(3, 8, 8 + i) for i in range(5)],
        [{"boxes": torch.zeros(k, 4)} for k in (3, 0, 3, 5, 3)],
    )
    first, second = split_samples((images, targets), 2)
    assert [i.shape[2] for i in first[0]] == [8, 9, 10] and [i.shape[2] for i in second[0]] == [11, 12]
    assert [len(t["boxes"]) for t in second[1]] == [5, 3]
    two = split_samples((images[:2], targets[:2]), 2)
    assert [len(part) for part in two] == [2, 2] and two[1][0][0].shape[2] == 9, "a batch of two is no list of two"
    three = split_samples((images[:3], targets[:3]), 3)
    assert [part[0][0].shape[2] for part in three] == [8, 9, 10], "three images are not their three channels"
    rows = split_samples(list(zip(images, targets, strict=True)), 2)
    assert [len(part) for part in rows] == [3, 2]


def test_objects_keep_their_class() -> None:
    frozen = split_samples(Frozen(torch.arange(4)), 2)[1]
    assert isinstance(frozen, Frozen) and frozen.x.tolist() == [2, 3]
    mapping = split_samples(UserDict({"x": torch.arange(4), "n": 7}), 2)[1]
    assert isinstance(mapping, UserDict) and mapping["x"].tolist() == [2, 3] and mapping["n"] == 7


def test_packed_sequences_are_packed_anew() -> None:
    sequences = [torch.arange(float(n)) + 10 * n for n in (2, 5, 3)]
    parts = split_samples((pack_sequence(sequences, enforce_sorted=False), torch.arange(3)), 2)
    found = [s for part in parts for s in unpack_sequence(part[0])]
    assert all(torch.equal(a, b) for a, b in zip(found, sequences, strict=True))
    assert [part[1].tolist() for part in parts] == [[0, 1], [2]]


def test_batches_that_count_themselves_are_split_by_their_own_means_or_refused() -> None:
    graphs = Graphs([torch.full((n, 2), float(n)) for n in (3, 1, 4, 1)])
    parts = split_samples((graphs, torch.arange(4)), 2)
    assert [[len(g) for g in part[0].graphs] for part in parts] == [[3, 1], [4, 1]]
    with pytest.raises(TrickError, match="Molecules cannot be split by its samples, of which only it knows"):
        split_samples((Molecules(), torch.zeros(4, 1)), 2)


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
