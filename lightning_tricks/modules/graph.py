"""What follows a layer in the graph of a loss, and what the loss compares. torch only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_tricks.numerics.torch_internals import saved_target

_LEAF = "AccumulateGrad"
_NEAR_THE_LOSS = 64  # nodes of a graph


def layers_with_parameters_behind(loss: Tensor, nodes: Mapping[str, Sequence[Any]]) -> set[str]:
    """Return the layers whose output goes through an operation with a parameter on its way to the loss.

    A layer from which no path leads to the loss counts as well: nothing is known about what comes behind it.

    Args:
        loss: with its graph.
        nodes: name of a layer -> ``grad_fn`` of what it gave, None where it has none.
    """
    # One bit per layer: joining sets of layers at each of thousands of nodes is then one operation on whole numbers.
    bits = {name: 1 << i for i, name in enumerate(nodes)}
    own: dict[Any, int] = {}
    for name, found in nodes.items():
        for node in found:
            if node is not None:
                own[node] = own.get(node, 0) | bits[name]
    reached: dict[Any, int] = {}
    behind = 0
    # A stack instead of recursion: the graph of a recurrent network is deeper than Python allows calls to nest.
    stack: list[tuple[Any, bool]] = [(loss.grad_fn, False)] if loss.grad_fn is not None else []
    while stack:
        node, done = stack.pop()
        if node in reached and not done:
            continue
        inputs = [n for n, _ in node.next_functions if n is not None]
        if not done:
            reached[node] = 0  # (graphs have no cycles: what is in work is met again only after it is done)
            stack.append((node, True))
            stack.extend((n, False) for n in inputs if n not in reached)
            continue
        through = 0
        for n in inputs:
            through |= reached[n] | own.get(n, 0)
        reached[node] = through
        if through and any(_is_parameter(n) for n in inputs):
            behind |= through
    top = own.get(loss.grad_fn, 0) | reached.get(loss.grad_fn, 0)
    return {name for name, bit in bits.items() if behind & bit or not top & bit}


def _is_parameter(node: Any) -> bool:
    """Whether a node is a leaf, or a view or cast of one, as the transposed weight of a linear layer."""
    if node.name().endswith(_LEAF):
        return True
    inputs = [n for n, _ in node.next_functions if n is not None]
    return len(inputs) == 1 and bool(inputs[0].name().endswith(_LEAF))


def compared_targets(loss: Tensor) -> list[Tensor]:
    """Return the targets that torch's loss functions compare something with, where a loss is made of their values.

    They are kept for the backward pass, so that nothing is computed. A step may have changed the order of its batch.

    Args:
        loss: with its graph.

    Example:
        >>> import torch
        >>> labels = torch.tensor([2, 0])
        >>> loss = torch.nn.functional.cross_entropy(torch.nn.Linear(1, 3)(torch.zeros(2, 1)), labels.flip(0))
        >>> compared_targets(0.5 * loss)
        [tensor([0, 2])]
    """
    found, waiting, seen = [], [loss.grad_fn], set[Any]()
    while waiting and len(seen) < _NEAR_THE_LOSS:
        node = waiting.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        target = saved_target(node)
        if target is not None:
            found.append(target)  # (what comes before it is the network)
        else:
            waiting += [before for before, _ in node.next_functions]
    return found
