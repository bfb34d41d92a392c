"""Who keeps memory, from look to look through the objects of a run."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn

from lightning_tricks.diagnosis.memory import Growth, Moment, Prospect, growth_of, is_suspect
from lightning_tricks.dry_run.holders import take_census
from lightning_tricks.dry_run.holdings import Census, Holding
from lightning_tricks.dry_run.roots import callback_name, roots_of
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.trees import tree_leaves

_MOST_LOOKS = 16
_MOST_FOLLOWED = 64  # tensors of a batch and its outputs that are looked for at the next look
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")


class MemoryLooks:
    """Looks through what the module, the user's callbacks, the data and the globals of their code hold.

    Example:
        >>> looks = MemoryLooks()
        >>> holding = Holding("module.losses", tensors=1, graphs=1, nbytes=4)
        >>> looks.add(Census({"module.losses": holding}), Moment(3, 0, 3), Prospect(0.0), [])
        >>> looks.growths, looks.any_suspect
        ([], False)
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A fit begins or ends, or the weights were put back."""
        self.census = Census()  # of the last look
        self.growths: list[Growth] = []  # what was seen to grow at it
        self._holders: dict[str, list[tuple[Moment, Holding]]] = {}
        self._followed: list[weakref.ref[Tensor]] = []

    def forget_holders(self) -> None:
        """The weights were put back: what is held is compared with later looks only."""
        self._holders = {}

    @property
    def there(self) -> bool:
        """Whether there was a look at which something was held."""
        return bool(self._holders)

    @property
    def any_suspect(self) -> bool:
        """Whether a holder has grown steadily, and it is not known yet whether the next epoch will clear it."""
        return any(map(is_suspect, self._holders.values()))

    def look(self, run: TrainingRun, moment: Moment, prospect: Prospect, step: Any, *, ended: bool = False) -> None:
        """Look through the objects; see what grows.

        Args:
            run: the run.
            moment: of the look.
            prospect: what is known of the run.
            step: the batch and what the step returned, in any structure.
            ended: whether training is over.
        """
        alive = [tensor for reference in self._followed if (tensor := reference()) is not None]
        census = census_of(run, {id(tensor) for tensor in alive})
        # (or this name would keep the tensors that are looked for alive)
        del alive
        self.add(census, moment, prospect, step, ended=ended)

    def add(self, census: Census, moment: Moment, prospect: Prospect, step: Any, *, ended: bool = False) -> None:
        """Take a look up; as ``look``."""
        holders = {}
        for name, holding in census.holdings.items():
            before = [point for point in self._holders.get(name, []) if point[0].update < moment.update]
            holders[name] = [*before, (moment, holding)][-_MOST_LOOKS:]
        found = (growth_of(history, prospect, ended=ended) for history in holders.values())
        self.census, self._holders = census, holders
        self.growths = [growth for growth in found if growth is not None]
        leaves = [x for x in tree_leaves(step) if isinstance(x, Tensor)]
        self._followed = [weakref.ref(tensor) for tensor in leaves[:_MOST_FOLLOWED]]


def census_of(run: TrainingRun, earlier: set[int]) -> Census:
    """Return what the objects of a run hold now.

    Args:
        run: the run.
        earlier: ids of tensors of an earlier step that are still alive.
    """
    trainer = run.trainer
    roots = roots_of(trainer, {})
    model: dict[str, Any] = {"module": trainer.lightning_module}
    data: dict[str, Any] = {name: root for name, root in roots.data.items() if not name.startswith("callback ")}
    for callback in trainer.callbacks:
        if callback_name(callback) in roots.data:
            name = f"callback {type(callback).__name__}"
            model[name if name not in model else callback_name(callback)] = callback
    for name in _GLOBAL_HOOKS:
        model[f"torch.nn.modules.module.{name}"] = getattr(nn.modules.module, name, {})
    return take_census(model, data, earlier)
