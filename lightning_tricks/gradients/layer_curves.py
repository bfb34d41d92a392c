"""What is logged of single parameters: all of them, the worst five, or none; and the history for the heat map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from lightning_tricks.gradients.layer_history import LayerHistory
from lightning_tricks.optimizer_step.logbook import OptimizerView
from lightning_tricks.publishing.publish import Publisher
from lightning_tricks.publishing.worst_series import WorstSeries

PerLayer = bool | Literal["top"]
Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


class LayerCurves:
    """Sends norms and update ratios of single parameters to the loggers.

    The worst five are chosen when the norms of a logged step have arrived on the host, where the heat map needs them
    anyway: no read of the device is added.

    Args:
        per_layer: True for every parameter, ``"top"`` for those with the largest norms, False for none.
        guard: put around what the publisher calls.
    """

    def __init__(self, per_layer: PerLayer, guard: Guard) -> None:
        self._per_layer, self._guard = per_layer, guard
        self._worst: dict[int, WorstSeries] = {}
        self.history = LayerHistory()

    def start(self, optimizers: int, state: Mapping[str, Any] | None) -> None:
        """Begin a run with that many optimizers, with the choice of a checkpoint if there is one."""
        self._worst = {index: WorstSeries.of_share(optimizers) for index in range(optimizers)}
        for index, chosen in (state or {}).items():
            if int(index) in self._worst:
                self._worst[int(index)] = self._worst[int(index)].restored(chosen)

    def state(self) -> dict[str, Any]:
        """Return which parameters are shown, by optimizer."""
        return {str(index): worst.state() for index, worst in self._worst.items()}

    def put_norms(self, publisher: Publisher, view: OptimizerView, step: int, norms: Tensor) -> None:
        """Send the norms ``[P]`` of an optimizer's parameters."""
        # (a copy: layers may be unfrozen before the numbers arrive)
        names = list(view.names)

        def on_arrival(numbers: list[float]) -> dict[str, float]:
            if self._per_layer and view.index == 0:
                self.history = self.history.after(names, step, numbers)
            worst = self._worst.get(view.index, WorstSeries()).after(names, numbers)
            self._worst[view.index] = worst
            return _chosen("grad/norm/", worst, names, numbers) if self._per_layer == "top" else {}

        if self._per_layer is True:
            publisher.put_many(step, view.keys("grad/norm/"), norms)
        publisher.put_selected(step, norms, self._guard(on_arrival))

    def put_ratios(self, publisher: Publisher, view: OptimizerView, step: int, ratios: Tensor) -> None:
        """Send the update ratios ``[P]``: of every parameter or of those with the largest norms."""
        if self._per_layer is True:
            publisher.put_many(step, view.keys("grad/update_ratio/"), ratios)
            return
        names = list(view.names)

        def on_arrival(numbers: list[float]) -> dict[str, float]:  # (after the norms of the same step)
            worst = self._worst.get(view.index, WorstSeries())
            return _chosen("grad/update_ratio/", worst, names, numbers)

        publisher.put_selected(step, ratios, self._guard(on_arrival))


def _chosen(prefix: str, worst: WorstSeries, names: Sequence[str], numbers: Sequence[float]) -> dict[str, float]:
    values = dict(zip(names, numbers, strict=True))
    return {prefix + name: values[name] for name in worst.shown if name in values}
