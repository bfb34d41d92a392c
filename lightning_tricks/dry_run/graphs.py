"""What an autograd graph keeps alive: its operations, and the tensors that they saved for the backward pass.

The graph is read and not run. A tensor that was packed by a hook (activation checkpointing, offloading) is not
unpacked, since that would run the forward pass again, or copy.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import Tensor

from lightning_tricks.dry_run import storages
from lightning_tricks.numerics.torch_internals import storage_id

BYTES_OF_A_NODE = 500  # in the host's memory, also after the backward pass has freed what was saved (measured)


@dataclass
class Graph:
    """Operations of a graph, and what they saved.

    Args:
        nodes: how many operations.
        complete: whether all were looked at.
        saved: bytes by storage (its ``_cdata``), each once.
        packed: how many saved tensors are in the hands of hooks, of unknown size.
    """

    nodes: int = 0
    complete: bool = True
    saved: dict[int, int] = field(default_factory=dict)
    packed: int = 0

    @property
    def nbytes(self) -> int:
        """Memory of the saved tensors and of the operations themselves."""
        return sum(self.saved.values()) + self.nodes * BYTES_OF_A_NODE


def graph_below(grad_fn: Any, *, without: Collection[int] = (), most: int = 20_000) -> Graph:
    """Return what the graph of a tensor keeps alive.

    Args:
        grad_fn: of the tensor; None for an empty graph.
        without: storages that are not counted, as those of parameters.
        most: operations that are looked at, >= 1.
    """
    graph, seen, waiting = Graph(), set[Any](), [grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if graph.nodes >= most:
            graph.complete = False
            break
        seen.add(node)
        graph.nodes += 1
        _note_saved(graph, node, without)
        waiting += [following for following, _ in node.next_functions]
    return graph


def _note_saved(graph: Graph, node: Any, without: Collection[int]) -> None:
    kind: Any = type(node)
    for name in _saved_names(kind):
        try:
            held = getattr(node, name)
            for one in held if isinstance(held, (tuple, list)) else (held,):
                if one.unpack_hook is not None:
                    graph.packed += 1
                elif isinstance(one.data, Tensor):
                    storage = storages.storage_of(one.data)
                    if storage is not None and storage_id(storage) not in without:
                        graph.saved[storage_id(storage)] = storage.nbytes()
        except (RuntimeError, AttributeError):  # freed by a backward pass; or an older torch, which does not show them
            continue


@lru_cache(maxsize=1000)
def _saved_names(kind: type) -> tuple[str, ...]:
    # torch shows a saved tensor as ``_saved_x``, which runs unpack hooks, and as ``_raw_saved_x``, which does not.
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved"))
