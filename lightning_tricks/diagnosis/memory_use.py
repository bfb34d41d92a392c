"""What the parts of a training take: bytes of weights, gradients, optimizer state, and of the activations of a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_tricks.dry_run.graphs import Graph
from lightning_tricks.dry_run.storages import storage_of
from lightning_tricks.modules.batches import samples_of
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.torch_internals import storage_id, tree_flatten_with_path
from lightning_tricks.numerics.trees import tree_leaves

# tensors of the size of the weights that an optimizer makes in its first step
_STATES = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "Adamax": 2, "RMSprop": 1, "Adagrad": 1}
IN_FUNCTIONS = "functions between modules"


class ModelBytes(NamedTuple):
    """What a model and its optimizers take.

    Args:
        weights, buffers, gradients, optimizer_state: bytes; the last two as a full step needs them.
        trained: weights that are trained, counted.
    """

    weights: int
    buffers: int
    gradients: int
    optimizer_state: int
    trained: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.buffers + self.gradients + self.optimizer_state


def model_bytes(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> ModelBytes:
    """Return what a model and its optimizers take. State that is made in the first step is estimated before it.

    Example:
        >>> net = nn.Linear(3, 1)
        >>> model_bytes(net, [torch.optim.Adam(net.parameters())])
        ModelBytes(weights=16, buffers=0, gradients=16, optimizer_state=32, trained=4)
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    state = 0
    for optimizer in optimizers:
        there = sum(t.nbytes for row in optimizer.state.values() for t in _tensors(row))
        members = [p for group in optimizer.param_groups for p in group["params"]]
        momentum = any(group.get("momentum") for group in optimizer.param_groups)
        copies = _STATES.get(_name(optimizer), 0) or int(momentum)
        state += there or copies * _bytes_of(members)
    return ModelBytes(
        _bytes_of(module.parameters()),
        _bytes_of(module.buffers()),
        _bytes_of(trained),
        state,
        sum(local(p).numel() for p in trained),
    )


def steps_foreach(optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Whether an optimizer makes temporary copies of all weights: torch's ``foreach``, the default on a GPU."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            on_gpu = any(p.device.type == "cuda" for p in group["params"][:1])
            default = group.get("foreach") is None and on_gpu and "foreach" in group
            if (group.get("foreach") or default) and not group.get("fused"):
                return True
    return False


class Activations:
    """Notes which storages the outputs of modules lie in, and finds them again among what the graph has saved.

    A forward hook calls ``note`` with an output. No tensor is kept.

    Example:
        >>> net, notes = nn.Sequential(nn.Linear(3, 5), nn.Tanh()), Activations()
        >>> for name, child in net.named_children():
        ...     _ = child.register_forward_hook(lambda m, a, out, name=name: notes.note(name, out))
        >>> out = net(torch.ones(2, 3)).sum()
        >>> from lightning_tricks.dry_run.graphs import graph_below
        >>> notes.by_module(graph_below(out.grad_fn, without=storages(net.parameters())))
        {'1': 40, 'functions between modules': 24}
    """

    def __init__(self) -> None:
        self._places: dict[int, str] = {}
        self._outputs: dict[str, int] = {}

    def note(self, name: str, output: Any) -> None:
        """Note an output of a module; of storages that are used again the last one counts."""
        for tensor in _tensors(output):
            storage = storage_of(tensor)
            if storage is not None:
                self._places[storage_id(storage)] = name
                self._outputs[name] = self._outputs.get(name, 0) + storage.nbytes()

    def by_module(self, graph: Graph) -> dict[str, int]:
        """Return what is saved for the backward pass, by module.

        Where the graph does not show it (an older torch), it is the bytes of all outputs of the modules.
        """
        if not graph.saved and not graph.packed:
            return dict(self._outputs)
        found: dict[str, int] = {}
        for storage, nbytes in graph.saved.items():
            name = self._places.get(storage, IN_FUNCTIONS)
            found[name] = found.get(name, 0) + nbytes
        return found


def storages(tensors: Iterable[Tensor]) -> set[int]:
    """Return the storages of tensors."""
    found = (storage_of(local(t)) for t in tensors)
    return {storage_id(storage) for storage in found if storage is not None}


class BatchSize(NamedTuple):
    """How large a batch is.

    Args:
        nbytes: of its tensors.
        elements: of its tensors.
        samples: in it; None where that cannot be told.
        sequence: length of its sequences; None where it has none.
    """

    nbytes: int = 0
    elements: int = 0
    samples: int | None = None
    sequence: int | None = None


def batch_size(batch: Any) -> BatchSize:
    """Return how large a batch is. A sequence is the second dimension of tokens ``[n, t]`` or features ``[n, t, d]``.

    >>> batch_size((torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4)))
    BatchSize(nbytes=240, elements=32, samples=4, sequence=7)
    """
    leaves = _tensors(batch)
    try:
        samples: int | None = samples_of(batch).count
    except (ValueError, TypeError, AttributeError):
        samples = None
    lengths = [t.shape[1] for t in leaves if t.ndim == (3 if t.is_floating_point() else 2)]
    return BatchSize(sum(t.nbytes for t in leaves), sum(t.numel() for t in leaves), samples, max(lengths, default=None))


def batch_rows(batch: Any) -> list[str]:
    """Return place, dtype and shape of the tensors of a batch.

    >>> batch_rows({"x": torch.zeros(2, 3)})
    ["['x']: float32 [2, 3]"]
    """
    rows = [(place, leaf) for place, leaf in tree_flatten_with_path(batch)[0] if isinstance(leaf, Tensor)]
    return [f"{''.join(map(str, p))}: {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for p, t in rows]


def _name(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the memory of tensors, each storage once."""
    found: dict[int, int] = {}
    for tensor in map(local, tensors):
        storage = storage_of(tensor)
        found[id(tensor) if storage is None else storage_id(storage)] = (
            tensor.nbytes if storage is None else storage.nbytes()
        )
    return sum(found.values())


def _tensors(value: Any) -> list[Tensor]:
    leaves = tree_leaves(value)
    deeper = [x for leaf in leaves if isinstance(leaf, dict) for x in leaf.values()]  # unregistered output classes
    return [t for t in [*leaves, *deeper] if isinstance(t, Tensor)]
