"""The modules of a network by their plain names, and which of them hooks can reach. torch only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lightning_tricks.errors import TrickError, UnsupportedError, message, nearest
from lightning_tricks.modules.selection import plain_name
from lightning_tricks.numerics.torch_internals import compiled_as_one, compiled_forward, compiled_original


def matching_modules(modules: Mapping[str, nn.Module], patterns: Sequence[str], *, owner: str) -> list[str]:
    """Return the names that a name or glob of ``patterns`` matches, in the order of ``modules``.

    Args:
        patterns: full names or globs, as ``head`` or ``blocks.*.norm``.

    Raises:
        TrickError: a pattern matches nothing; the message shows the nearest name.
    """
    names = [name for name in modules if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = nearest(pattern, names) or next(iter(names), None)
            remedy = f"The nearest name is {near!r}" if near else "The module has no submodules"
            raise TrickError(message(owner, "modules", pattern, "the name or glob matches no module", remedy))
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def plain_modules(root: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module without what ``torch.compile`` adds to names.

    A module that ``torch.compile`` wrapped stands for itself under its plain name; what is inside it is named too.
    """
    found: dict[str, nn.Module] = {}
    for name, module in root.named_modules():
        # ``named_modules`` yields a wrapper before what it wraps. The wrapper gets the name, because its hooks are
        # outside the compiled graph.
        found.setdefault(plain_name(name), module)
    return found


def in_compiled_graphs(root: nn.Module) -> set[int]:
    """Return the ids of the modules whose ``forward`` is traced into a graph of ``torch.compile``, hooks and all.

    The wrapper that ``torch.compile(module)`` returns is outside of its graph; a module after ``module.compile()`` is
    inside, and so is one of TorchScript, which takes no hooks.
    """
    inside: set[int] = set()
    for module in root.modules():
        if compiled_forward(module) is not None or isinstance(module, torch.jit.ScriptModule):
            inside.update(map(id, module.modules()))
        elif isinstance(original := compiled_original(module), nn.Module):
            inside.update(map(id, original.modules()))
    return inside


def compiled_as_a_whole(module: Any) -> bool:
    """Whether ``torch.compile`` was applied to the LightningModule itself."""
    return compiled_as_one(module)


def refuse_compiled(module: Any, owner: str) -> None:
    """Refuse a LightningModule that is compiled as a whole: no hook in it can be reached."""
    if compiled_as_a_whole(module):
        raise UnsupportedError(
            f"{owner}: the whole LightningModule is compiled, so that no module in it can be reached. "
            "Compile its parts instead: self.net = torch.compile(self.net)."
        )


def reachable(
    known: Mapping[str, nn.Module], hidden: set[int], patterns: Sequence[str], owner: str, given: list[str]
) -> list[str]:
    """Return the names that the patterns match; refuse what is part of a compiled graph."""
    names = matching_modules(known, patterns, owner=owner)
    inside = [n for n in names if id(known[n]) in hidden]
    if inside:
        text = f"{inside[0]!r} is part of a compiled graph, where hooks would be traced"
        remedy = "Name what was wrapped by torch.compile(part) itself, or compile smaller parts"
        raise UnsupportedError(message(owner, "modules", given, text, remedy))
    return names
