"""What an attribute, a list or a variable keeps alive, and the commonest tensors of a process."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_tricks.dry_run.places import Place

OWN_PARTS = ("._modules", "._parameters", "._buffers")


@dataclass
class Holding:
    """What one attribute, list or variable keeps alive.

    Args:
        name: where it is, as ``module.losses`` or ``callback Keeps.outputs``.
        tensors: how many tensors; of a large container estimated from a sample, as all that follows.
        graphs: how many of them carry an autograd graph.
        nodes: operations in these graphs.
        elements: of the largest tensor.
        nbytes: memory of tensors, arrays and graphs.
        device_bytes: of tensors on an accelerator.
        arrays: how many numpy arrays.
        hooks: how many hooks a module or tensor calls.
        kept: tensors of an earlier batch, or of what ``training_step`` returned for it.
        metric: whether it is a state of a torchmetrics metric.
        bounded: whether it is in a ``deque`` with a largest length.
        traceback: whether an exception's traceback keeps it.
    """

    name: str
    tensors: float = 0.0
    graphs: float = 0.0
    nodes: float = 0.0
    elements: int = 0
    nbytes: float = 0.0
    device_bytes: float = 0.0
    arrays: float = 0.0
    hooks: float = 0.0
    kept: int = 0
    metric: bool = False
    bounded: bool = False
    traceback: bool = False


@dataclass
class Census:
    """What was found at one look.

    Args:
        holdings: by name; parameters and their gradients are left out.
        tensors: how many tensors are reachable, parameters too.
        nbytes: of their memory.
    """

    holdings: dict[str, Holding] = field(default_factory=dict)
    tensors: float = 0.0
    nbytes: float = 0.0


def holder_of(place: Place) -> str:
    """Return the name of the attribute or variable that a place is part of: what is before the first index.

    >>> losses = Place(Place(None, "module"), ".losses")
    >>> holder_of(Place(Place(losses, "[3]"), "['loss']")), holder_of(losses)
    ('module.losses', 'module.losses')
    """
    above, chain = place, [place]
    while above.parent is not None:
        above = above.parent
        chain.append(above)
    end = above
    for before, here in zip([None, *reversed(chain)], reversed(chain), strict=False):
        if here.name.startswith("[") and not (before is not None and before.name in OWN_PARTS):
            break
        end = here
    return str(end)


def commonest_tensors(most: int = 3) -> list[str]:
    """Return the commonest kinds of live tensors in this process, with their number. Slow: reads the heap."""
    found = [x for x in gc.get_objects() if issubclass(type(x), Tensor) and not issubclass(type(x), nn.Parameter)]
    kinds = Counter(f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in found)
    return [f"{count:,} of {kind}" for kind, count in kinds.most_common(most)]
