from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from lightning_tricks.modules.batches import Samples, is_list_of_samples, own_count, parts_of, samples_of

z = torch.zeros
Pair = namedtuple("Pair", "x y")


@dataclass(slots=True)
class Slots:
    x: Tensor
    covariates: Any = None
    late: Tensor = field(init=False)  # never set


@dataclass(frozen=True)
class Frozen:
    note: str
    x: Tensor


@dataclass(slots=True)
class Molecules:
    """As a batch of chemprop: the tensors count atoms, the length counts molecules."""

    atoms: Tensor
    count: int

    def __len__(self) -> int:
        return self.count


class Graphs:
    """As a batch of torch_geometric: it has keys, and says how many graphs it holds."""

    def __init__(self, nodes: int, graphs: int) -> None:
        self.x, self.edge_index, self.num_graphs = z(nodes, 3), z(2, 9), graphs

    def keys(self) -> list[str]:
        return ["x", "edge_index"]

    def __getitem__(self, key: str) -> Tensor:
        return getattr(self, key)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return 2


class TensorDict(UserDict[str, Tensor]):
    """As one of tensordict."""

    batch_size = torch.Size([5, 7])


class Nested:
    """As DETR's: images of several sizes in one tensor, and a mask."""

    def __init__(self, n: int) -> None:
        self.tensors, self.mask = z(n, 3, 9, 9), z(n, 9, 9)


Train = namedtuple("Train", "graph atom_features y weight mask")


def image(channels: int = 3, height: int = 8) -> Tensor:
    return z(channels, height, 8)


def boxes(k: int) -> dict[str, Tensor]:
    return {"boxes": z(k, 4), "labels": z(k)}


BY_DIMENSIONS: list[tuple[Any, int]] = [
    (z(5, 2), 5),
    ((z(5, 2), z(5)), 5),
    ([z(5, 2), z(5, 9), z(1, 9)], 5),
    (Pair(z(5), z(5)), 5),
    ({"x": z(5, 1), "names": list("abcde"), "epoch": 7, "nothing": None, "scalar": z(())}, 5),
    ({"x": z(5, 1), "size": [224, 224]}, 5),
    (UserDict({"x": z(5, 1), "y": z(5)}), 5),
    ({"deep": [(z(5, 2),)], "more": {"x": (z(5), z(5))}}, 5),
    (Slots(z(5, 2)), 5),
    ((Slots(z(5, 2)), z(5)), 5),
    (Frozen("note", z(5)), 5),
    (Nested(5), 5),
    (([z(8, 3, 9, 9), z(8, 3, 7, 7)], z(8)), 8),  # two views
    ({"views": [z(8, 3)] * 10}, 8),
    ((z(8, 3), (z(8, 3), z(8, 3))), 8),
    ({"a": [z(8, 3), z(8)], "b": [z(8, 3), z(8)]}, 8),  # two loaders
    ({"a": [z(8, 3), z(8, 1)], "b": [z(8, 3), z(8, 1)]}, 8),
    ([[z(8, 3), z(8)], [z(8, 3), z(8)]], 8),
    ([{"x": z(8, 3)}, {"x": z(8, 3)}], 8),
    ([{"x": z(8, 3), "y": z(8)}, {"x": z(8, 3), "y": z(8)}], 8),
]
BY_RECORDS: list[tuple[Any, int]] = [
    ((tuple(image() for _ in range(4)), tuple({"y": z(())} for _ in range(4))), 4),
    (([image(), image()], [boxes(3), boxes(3)]), 2),
    (([image()], [boxes(3)]), 1),
    (([image(3, 8), image(3, 9)], [z(8, 8), z(9, 8)]), 2),
    (([image()] * 4, [image(1)] * 4), 4),
    (([image()] * 4, [1, 0, 1, 1]), 4),
    ({"images": [image()] * 4, "y": z(4)}, 4),
    ({"pixel_values": z(2, 3, 8, 8), "labels": [boxes(1), boxes(4)]}, 2),
    ([{"image": image(), "id": 3}] * 4, 4),
    ([{"image": image()}] * 4, 4),
    ([{"x": z(7), "y": z(())}] * 4, 4),
    ([{"image": image(), "boxes": z(5, 4)}] * 4, 4),
    ([[image(), 5], [image(), 6]], 2),
    ([(image(), boxes(3))] * 4, 4),
    ({"sequences": [z(5, 2), z(3, 2)]}, 2),
    ({"ids": [[1, 2], [3, 4, 5]], "x": z(2, 3)}, 2),
    ((Nested(4), [boxes(2)] * 4), 4),
]
SAID: list[tuple[Any, int]] = [
    (Graphs(31, 4), 4),
    ((Graphs(31, 4), z(4, 1)), 4),
    ([Graphs(31, 4), Graphs(17, 4)], 4),
    (Train(Molecules(z(31, 5), 4), z(31, 2), z(4, 1), z(4, 1), None), 4),
    ({"graph": Molecules(z(31, 5), 4), "y": z(4)}, 4),
    (TensorDict({"x": z(5, 7, 2)}), 5),
    (pack_sequence([z(5, 2), z(3, 2)]), 2),
    ((pack_sequence([z(2), z(3), z(3)], enforce_sorted=False), z(3)), 3),
]


@pytest.mark.parametrize(("batch", "count"), [*BY_DIMENSIONS, *BY_RECORDS, *SAID])
def test_the_samples_of_a_batch_are_counted(batch: Any, count: int) -> None:
    assert samples_of(batch).count == count


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ("text", "holds no tensor whose first dimension is the number of samples"),
        (z(()), "holds no tensor whose first dimension is the number of samples"),
        ([], "holds no tensor"),
        ({"x": z(8, 2), "class_weights": z(10)}, r"first dimensions differ \(8 and 10\)"),
        ({"a": [z(8, 3), z(8)], "b": [z(16, 3), z(16)]}, r"differ \(8 and 16\)"),
        ([boxes(8), boxes(16)], r"differ \(8 and 16\)"),
        (([image()] * 4, [image()] * 4), "holds 4 samples if its lists hold images, and else 3"),
        ((Graphs(31, 4), Graphs(9, 2)), "says that it holds 2 and 4 samples"),
    ],
)
def test_what_cannot_be_told_is_said_and_not_guessed(batch: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        samples_of(batch)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 6), min_size=6, max_size=6), st.sampled_from([1, 3, 4]))
def test_detection_batches_of_any_content_are_counted_by_their_lists(n: int, objects: list[int], channels: int) -> None:
    images, targets = [image(channels, 5 + i) for i in range(n)], [boxes(k) for k in objects[:n]]
    assert samples_of((images, targets)) in (Samples(n, records=True), Samples(n, records=None))
    assert samples_of(tuple(zip(images, targets, strict=True))).count == n
    rows = [{"image": i, **t} for i, t in zip(images, targets, strict=True)]
    assert samples_of(rows, records=True).count == n


def test_a_batch_that_can_be_read_in_two_ways_is_read_like_the_one_before() -> None:
    rows = [{"image": image(), "boxes": z(3, 4)}] * 2
    assert samples_of(rows) == Samples(3, records=False)
    assert samples_of(rows, records=True) == Samples(2, records=True)
    pairs = ([image()] * 4, [image()] * 4)
    assert samples_of(pairs, records=True).count == 4 and samples_of(pairs, records=False).count == 3


@settings(max_examples=100, deadline=None)
@given(
    st.integers(2, 9),
    st.recursive(
        st.lists(st.integers(0, 3), max_size=3),
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
            st.tuples(st.lists(st.integers(0, 3), max_size=3), inner),
            st.builds(Slots, inner, inner),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=6,
    ),
)
def test_tensors_that_agree_tell_it_in_any_nest_of_named_places(n: int, nest: Any) -> None:
    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return z(n, *value)
        if isinstance(value, dict):
            return {k: fill(v) for k, v in value.items()}
        if isinstance(value, Slots):
            return Slots(fill(value.x), fill(value.covariates))
        return type(value)(*map(fill, value)) if isinstance(value, Pair) else tuple(map(fill, value))

    assert samples_of(fill(nest)).count == n


def test_the_batches_of_transformers_are_counted_by_their_rows_and_not_by_their_fields() -> None:
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": z(5, 9).long(), "attention_mask": z(5, 9), "labels": z(5, 9)})
    assert samples_of(batch).count == 5
    assert own_count(batch) is None and len(parts_of(batch) or []) == 3


def test_a_list_of_samples_is_told_from_one_of_fields() -> None:
    for batch, _ in BY_DIMENSIONS[:-2]:
        assert not is_list_of_samples(batch)
    assert is_list_of_samples([(image(), boxes(3))] * 4)
    assert not is_list_of_samples(([image()] * 2, [boxes(3)] * 2))
