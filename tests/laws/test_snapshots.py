"""A snapshot puts back any object graph, whatever was done to it: random graphs, random changes.

The oracle is pickle's picture of the graph, and the identity of every object in it.
"""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.snapshot import Snapshot
from tests.dry_run.problems import picture
from tests.laws.strategies import law, seeds

pytestmark = pytest.mark.filterwarnings("ignore")


class Plain:
    """An object with attributes."""


@dataclass(slots=True)
class Slots:
    a: Any = None
    b: Any = None


class OwnList(list[Any]):
    """A list with attributes."""


MAKE: dict[str, Callable[[random.Random, list[Any]], Any]] = {
    "list": lambda r, old: list(old),
    "own list": lambda r, old: OwnList(old),
    "dict": lambda r, old: {f"k{i}": x for i, x in enumerate(old)},
    "ordered": lambda r, old: OrderedDict((f"k{i}", x) for i, x in enumerate(old)),
    "default": lambda r, old: defaultdict(list, {i: x for i, x in enumerate(old)}),
    "deque": lambda r, old: deque(old, maxlen=4),
    "tuple": lambda r, old: tuple(old),
    "set": lambda r, old: {r.random() for _ in range(3)},
    "plain": lambda r, old: _with_attributes(Plain(), old),
    "namespace": lambda r, old: SimpleNamespace(**{f"a{i}": x for i, x in enumerate(old)}),
    "slots": lambda r, old: Slots(*old[:2]),
    "module": lambda r, old: _with_attributes(nn.Linear(2, 2), old),
    "parameter": lambda r, old: nn.Parameter(torch.randn(3, 2)),
    "large": lambda r, old: nn.Parameter(torch.zeros(600, 600), requires_grad=r.random() < 0.5),
    "tensor": lambda r, old: torch.arange(6.0),
    "view": lambda r, old: torch.arange(12.0)[2:8],
    "array": lambda r, old: numpy.arange(5.0),
    "objects": lambda r, old: _object_array(old),
    "torch rng": lambda r, old: torch.Generator().manual_seed(1),
    "numpy rng": lambda r, old: numpy.random.default_rng(1),
    "python rng": lambda r, old: random.Random(1),
    "bytes": lambda r, old: bytearray(b"abcd"),
    "number": lambda r, old: 12345.678,
}


def _with_attributes(thing: Any, values: list[Any]) -> Any:
    for i, value in enumerate(values):
        thing.__dict__[f"attribute{i}"] = value
    return thing


def _object_array(values: list[Any]) -> Any:
    made = numpy.empty(len(values) + 1, dtype=object)
    for i, value in enumerate(values):
        made[i] = value
    return made


def graph(seed: int, size: int) -> list[Any]:
    """Objects, each of which may hold earlier ones; and some hold themselves or later ones."""
    r = random.Random(seed)
    nodes: list[Any] = []
    for _ in range(size):
        old = r.sample(nodes, min(len(nodes), r.randrange(4)))
        nodes.append(MAKE[r.choice(sorted(MAKE))](r, old))
    for node in nodes:
        if isinstance(node, list) and r.random() < 0.3:
            node.append(r.choice(nodes))
    return nodes


@torch.no_grad()
def change(node: Any, r: random.Random, nodes: list[Any]) -> None:
    """Do something to an object."""
    other = r.choice(nodes)
    if isinstance(node, torch.Tensor):
        r.choice(
            [
                lambda: node.add_(1),
                lambda: node.data.mul_(2),
                lambda: setattr(node, "data", torch.ones(2)),
                lambda: node.__setitem__(0, 9.0),
                lambda: setattr(node, "note", other),
                lambda: setattr(node, "grad", torch.ones_like(node)),
                lambda: node.requires_grad_(not node.requires_grad) if node.is_leaf else None,
                lambda: node.resize_(2) if not node.requires_grad else None,
            ]
        )()
    elif isinstance(node, numpy.ndarray):
        node[r.randrange(len(node))] = other if node.dtype == object else 7.0
    elif isinstance(node, torch.Generator):
        torch.rand(2, generator=node)
    elif isinstance(node, (numpy.random.Generator, random.Random)):
        node.random()
    elif isinstance(node, bytearray):
        node += b"x"
    elif isinstance(node, (list, deque)):
        r.choice([node.clear, lambda: node.append(other), node.reverse, lambda: node.extend([other, 1])])()
    elif isinstance(node, dict):
        r.choice([node.clear, lambda: node.update(new=other), lambda: node.update({k: other for k in node})])()
    elif isinstance(node, set):
        r.choice([node.clear, lambda: node.add(r.random()), lambda: node.discard(next(iter(node), None))])()
    elif isinstance(node, Slots):
        r.choice([lambda: setattr(node, "a", other), lambda: hasattr(node, "b") and delattr(node, "b")])()
    elif isinstance(node, nn.Module):
        r.choice([lambda: setattr(node, "weight", nn.Parameter(torch.ones(1))), node.eval, node.half])()
    if hasattr(node, "__dict__"):
        r.choice([lambda: node.__dict__.update(fresh=other), lambda: node.__dict__.pop("attribute0", None)])()


def shallow(node: Any) -> Any:
    """Which objects a node holds, and facts that no picture shows."""
    if isinstance(node, torch.Tensor):
        return node.data_ptr(), node._version, node.requires_grad, id(node.grad), node.is_leaf
    held = node.__dict__.values() if hasattr(node, "__dict__") else ()
    inner = list(node.values()) if isinstance(node, dict) else list(node) if isinstance(node, (list, deque)) else ()
    return [id(x) for x in (*held, *inner)]


@given(seed=seeds, size=st.integers(1, 12), changes=st.integers(0, 25), steps=st.booleans(), again=st.booleans())
@law(150)
def test_a_snapshot_puts_back_any_graph(seed: int, size: int, changes: int, steps: bool, again: bool) -> None:
    nodes = graph(seed, size)
    before, held = picture(nodes), [shallow(node) for node in nodes]
    r = random.Random(seed + 1)
    snapshot = Snapshot(Roots({"nodes": nodes}), steps=steps)
    for _ in range(1 + again):
        with snapshot:
            for _ in range(changes):
                change(r.choice(nodes), r, nodes)
        assert picture(nodes) == before
        assert [shallow(node) for node in nodes] == held
        assert snapshot.damage() == []


def test_the_changes_are_seen_without_a_snapshot() -> None:
    """The oracle tells almost every one of these changes."""
    seen = 0
    for seed in range(60):
        nodes, r = graph(seed, 8), random.Random(seed + 1)
        before = picture(nodes), [shallow(node) for node in nodes]
        for _ in range(6):
            change(r.choice(nodes), r, nodes)
        seen += (picture(nodes), [shallow(node) for node in nodes]) != before
    assert seen >= 55
