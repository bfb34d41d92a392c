"""The optimizers of a Trainer that a run follows: one view and one pair of hooks for each, also when they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter, is_
from typing import NamedTuple

from torch.optim import Optimizer

from lightning_tricks.lifecycle.step_hooks import hook_steps
from lightning_tricks.modules.replaced import PutBack
from lightning_tricks.optimizer_step.logbook import OptimizerView
from lightning_tricks.optimizer_step.loss_scale import LossScale

_optimizer = attrgetter("optimizer")


class Exchange(NamedTuple):
    """What changed when a Trainer got other optimizers.

    Args:
        gone: views of optimizers that the Trainer no longer has.
        new: views of those that it has now, in its order.
    """

    gone: list[OptimizerView]
    new: list[OptimizerView]


class FollowedOptimizers:
    """Views of optimizers, and hooks around their steps.

    Args:
        before: called with the view before every step of an optimizer, and with what torch gives a hook of a step.
        after: called after it, with the same.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Linear(2, 2)
        >>> one, two = torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.Adam(net.parameters())
        >>> followed = FollowedOptimizers(lambda *_: print("before"), lambda *_: print("after"))
        >>> followed.exchange([one], {}, LossScale(None)).new == followed.views
        True
        >>> one.step()
        before
        after
        >>> gone, new = followed.exchange([two], {}, LossScale(None))
        >>> gone[0].optimizer is one, new[0].optimizer is two
        (True, True)
        >>> one.step()
    """

    def __init__(self, before: Callable[..., None], after: Callable[..., None]) -> None:
        self.views: list[OptimizerView] = []
        self._before, self._after = before, after
        self._put_back: dict[int, tuple[PutBack, ...]] = {}  # by the optimizer's index

    def are(self, optimizers: Sequence[Optimizer]) -> bool:
        """Whether these are the optimizers that are followed, in this order."""
        return len(optimizers) == len(self.views) and all(map(is_, optimizers, map(_optimizer, self.views)))

    def view_of(self, optimizer: Optimizer) -> OptimizerView | None:
        """Return the view of an optimizer; None where it is not followed."""
        for view in self.views:
            if view.optimizer is optimizer:
                return view
        return None

    def exchange(self, optimizers: Sequence[Optimizer], names: dict[int, str], loss_scale: LossScale) -> Exchange:
        """Follow these optimizers from now on; one that stays at its place keeps its view and its hooks.

        Args:
            optimizers: of the Trainer.
            names: ``{id(parameter): name}``.
            loss_scale: of the run.
        """
        old = self.views
        self.views = [
            old[i] if i < len(old) and old[i].optimizer is optimizer else OptimizerView(i, optimizer, names, loss_scale)
            for i, optimizer in enumerate(optimizers)
        ]
        change = Exchange([v for v in old if v not in self.views], [v for v in self.views if v not in old])
        for view in change.gone:  # before the new ones are hooked: hooks are kept by index, which they share
            self._unhook(view)
        for view in change.new:
            self._put_back[view.index] = hook_steps(
                view.optimizer, partial(self._before, view), partial(self._after, view)
            )
        return change

    def close(self) -> list[OptimizerView]:
        """Remove all hooks; return the views that there were."""
        views, self.views = self.views, []
        for view in views:
            self._unhook(view)
        return views

    def _unhook(self, view: OptimizerView) -> None:
        for put_back in self._put_back.pop(view.index, ()):
            put_back()
