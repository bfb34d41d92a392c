"""Batches of all forms: what torch's trees know, and objects that hold tensors under names."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

from lightning_tricks.numerics.trees import named_parts, tree_leaves, tree_map

Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    y: Tensor
    name: str = "a"


@dataclass(slots=True)
class Slotted:
    x: Tensor
    y: list[Tensor]


class Encoding(UserDict[str, Any]):
    """As a ``BatchEncoding`` of transformers is one."""


class Graph:
    """As a ``Data`` of torch-geometric: no mapping, its tensors lie in a store."""

    def __init__(self, **tensors: Tensor) -> None:
        self.store = dict(tensors)

    def __copy__(self) -> Graph:
        return Graph(**self.store)

    def keys(self) -> list[str]:
        return list(self.store)

    def __getitem__(self, key: str) -> Tensor:
        return self.store[key]

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.store[key] = value


class Own:
    """A batch class of a user's, which is moved by its own method."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any) -> Own:
        return Own(self.x.to(device), self.y.to(device))


X, Y = torch.arange(3.0), torch.tensor([7])
OBJECTS = {
    "frozen": lambda: Frozen(X, Y),
    "slotted": lambda: Slotted(X, [Y]),
    "encoding": lambda: Encoding(x=X, y=Y),
    "graph": lambda: Graph(x=X, y=Y),
    "own": lambda: Own(X, Y),
    "in a list": lambda: [Frozen(X, Y)],
    "in a dict": lambda: {"graph": Graph(x=X, y=Y)},
}


@pytest.mark.parametrize("name", OBJECTS)
def test_tensors_in_objects_are_seen_and_replaced_in_a_copy(name: str) -> None:
    tree = OBJECTS[name]()
    assert [t for t in tree_leaves(tree) if isinstance(t, Tensor)] == [X, Y] or all(
        torch.equal(a, b) for a, b in zip([t for t in tree_leaves(tree) if isinstance(t, Tensor)], [X, Y], strict=True)
    )
    other = tree_map(lambda t: t + 1 if isinstance(t, Tensor) else t, tree)
    assert type(other) is type(tree)
    changed = [t for t in tree_leaves(other) if isinstance(t, Tensor)]
    assert [t.tolist() for t in changed] == [[1.0, 2.0, 3.0], [8]]
    assert [t.tolist() for t in tree_leaves(tree) if isinstance(t, Tensor)] == [[0.0, 1.0, 2.0], [7]], (
        "the first is as it was"
    )


@pytest.mark.parametrize(
    "tree", [X, [X, {"a": (Y, None)}], Pair(X, Y), {"n": 1, "s": "text"}, torch.nn.Linear(1, 1), object(), None, Frozen]
)
def test_what_torch_knows_and_what_holds_no_tensors_is_as_torch_has_it(tree: Any) -> None:
    ours, torchs = tree_leaves(tree), _pytree.tree_leaves(tree)
    assert len(ours) == len(torchs) and all(a is b for a, b in zip(ours, torchs, strict=True))
    seen: list[Any] = []
    tree_map(seen.append, tree)
    assert len(seen) == len(torchs) and all(a is b for a, b in zip(seen, torchs, strict=True))


def test_parts_have_the_names_that_a_user_gives_them() -> None:
    for tree in (Frozen(X, Y), Encoding(x=X, y=Y), Graph(x=X, y=Y), Own(X, Y), Pair(X, Y), {"x": X, "y": Y, 3: Y}):
        parts = named_parts(tree)
        assert parts is not None and parts["x"] is X and parts["y"] is Y and 3 not in parts
    assert named_parts([X, Y]) is None and named_parts(X) is None and named_parts((X, Y)) is None


def test_an_object_that_leads_back_to_itself_is_seen_once() -> None:
    batch = Own(X, Y)
    batch.parent = batch  # type: ignore[attr-defined]
    assert [t.tolist() for t in tree_leaves(batch)] == [[0.0, 1.0, 2.0], [7]]
    assert tree_map(lambda t: t + 1, batch).y.tolist() == [8]
