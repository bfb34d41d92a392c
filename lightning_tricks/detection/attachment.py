"""Where a probe is attached: modules by their names, and hooks that only act in watched batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_tricks.detection.sampler import Sampler
from lightning_tricks.errors import TrickError, message, nearest
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.names import in_compiled_graphs, matching_modules, plain_modules, reachable
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.numerics.torch_internals import children_of

Call = Callable[[Callable[[], None]], Any]


class Attachment:
    """The hooks of one detector in one fit.

    Args:
        if_watched: calls what a hook wants to do, or does not: outside of watched batches nothing is looked at.
        sampler: when the detector looks. A probe may read it, as whether this is the first batch, and changes nothing.
    """

    def __init__(self, owner: str, run: TrainingRun, if_watched: Call, sampler: Sampler) -> None:
        self.owner = owner
        self.run = run
        self.sampler = sampler
        self._if_watched = if_watched
        self._handles: list[Any] = []
        self._paths = {
            id(m): tuple(name.split(".")) for name, m in run.trainer.lightning_module.named_modules() if name
        }
        self._watched: list[nn.Module] = []

    @property
    def root(self) -> nn.Module:
        """The LightningModule."""
        root: nn.Module = self.run.trainer.lightning_module
        return root

    def module(self, name: str, argument: str) -> nn.Module:
        """Return a module by its plain name.

        Args:
            name: as in ``named_modules()``, without the parts that compilation adds.

        Raises:
            TrickError: there is none; the message names the nearest.
            UnsupportedError: it is part of a compiled graph.
        """
        known = plain_modules(self.root)
        if name not in known or not name:
            near = nearest(name, [n for n in known if n])
            remedy = f"The nearest name is {near!r}" if near else f"The module has {', '.join(list(known)[1:9])}"
            raise TrickError(message(self.owner, argument, name, "there is no such module", remedy))
        reachable(known, in_compiled_graphs(self.root), [name], self.owner, [name])
        return known[name]

    def hidden(self) -> set[int]:
        """Return the ids of the modules that hooks cannot reach."""
        return in_compiled_graphs(self.root)

    def matching(self, patterns: list[str]) -> list[str]:
        """Return the names of the modules that names or globs match; no match is an error with the nearest name."""
        return matching_modules(plain_modules(self.root), patterns, owner=self.owner)

    @property
    def outdated(self) -> bool:
        """Whether another module is now where a watched one was: heads grow, and adapters are put around layers."""
        places = ((module, self._paths[id(module)]) for module in self._watched if id(module) in self._paths)
        return any(_at(self.root, path) is not module for module, path in places)

    def watch(self, module: nn.Module, seen: Callable[[Any], None]) -> Any:
        """Call ``seen(output)`` for each forward pass of ``module`` in the training step of a watched batch.

        Returns:
            The handle of the hook, which is removed at the end in any case.
        """

        def hook(_: nn.Module, args: Any, output: Any) -> None:
            self._if_watched(lambda: seen(output))

        # (``no_grad``: what is computed of the output must not join the graph of the user's loss)
        handle = module.register_forward_hook(Hook(torch.no_grad()(hook)))
        self.keep(handle)
        self._watched.append(module)
        return handle

    def watch_input(self, module: nn.Module, seen: Callable[[Any], None]) -> Any:
        """Call ``seen`` with the first argument of each forward pass of ``module``, as ``watch`` with its output."""

        def hook(_: nn.Module, args: Any) -> None:
            if args:
                self._if_watched(lambda: seen(args[0]))

        handle = module.register_forward_pre_hook(Hook(torch.no_grad()(hook)))
        self.keep(handle)
        return handle

    def keep(self, handle: Any) -> None:
        """Take over a hook's handle, to remove it at the end."""
        self._handles.append(handle)

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._watched = [], []


def _at(root: nn.Module, path: tuple[str, ...]) -> nn.Module | None:
    """Return the module at a path; None where there is none now."""
    found: nn.Module | None = root
    for name in path:
        found = None if found is None else children_of(found).get(name)
    return found
