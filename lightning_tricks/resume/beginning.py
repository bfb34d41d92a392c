"""What the data and the module held when a fit began: only what has changed since then has to be saved."""

from __future__ import annotations

from typing import Any

from lightning_tricks.resume import held
from lightning_tricks.resume.held import Held

Values = dict[str, Any]


class Beginning:
    """Remembers what was there before the first batch, and tells what has changed since.

    The data are looked at before their first iterator, the module before its first epoch; each once.
    """

    def __init__(self) -> None:
        self._data: Held | None = None
        self._module: Held | None = None

    def look_at_data(self, trainer: Any) -> None:
        """Remember what the loaders hold, the first time."""
        if self._data is None:
            self._data = held.held_by_data(trainer)

    def look_at_module(self, module: Any) -> None:
        """Remember what the module holds, the first time."""
        if self._module is None:
            self._module = held.held(module)

    def changed_in_data(self, trainer: Any) -> tuple[Values, list[str]]:
        """Return what has changed in the data, and the places of what cannot be saved."""
        return ({}, []) if self._data is None else held.changed(self._data, held.held_by_data(trainer))

    def changed(self, trainer: Any) -> tuple[Values, list[str]]:
        """Return what has changed in the data and in the module, and the places of what cannot be saved."""
        values, lost = self.changed_in_data(trainer)
        if self._module is not None:
            more, more_lost = held.changed(self._module, held.held(trainer.lightning_module))
            values, lost = {**values, **more}, [*lost, *more_lost]
        return values, lost

    def put_data(self, trainer: Any, values: Values) -> None:
        """Make the data as the fit found them, but for ``values``."""
        if self._data is not None:
            held.go_back(held.held_by_data(trainer), self._data, values)

    def put(self, trainer: Any, values: Values) -> list[str]:
        """Make data and module as the fit found them, but for ``values``; return the places that are gone."""
        of_data, of_module = split_by_owner(values)
        self.put_data(trainer, of_data)
        if self._module is None:
            return []
        module = trainer.lightning_module
        return held.go_back(held.held(module), self._module, of_module, module)


def split_by_owner(values: Values) -> tuple[Values, Values]:
    """Return the values that data hold, and those that the module holds, by place.

    >>> split_by_owner({"loader 0.sampler": 1, "module.net": 2, "": 3})
    ({'loader 0.sampler': 1}, {'module.net': 2, '': 3})
    """
    # (the flags of the module's parameters have no place)
    own = {place for place in values if place.startswith("module") or not place}
    return (
        {place: named for place, named in values.items() if place not in own},
        {place: named for place, named in values.items() if place in own},
    )
