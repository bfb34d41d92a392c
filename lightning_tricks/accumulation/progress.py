"""How far a run is in its accumulation windows: the one that is open, in which units, and how long it will be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_tricks.accumulation.open_window import MicroBatch, OpenWindow, Units
from lightning_tricks.accumulation.spec import AccumulationSpec, rate_factor
from lightning_tricks.accumulation.weights import Weight
from lightning_tricks.accumulation.window import Fixed


class WindowProgress:
    """Follows the micro-batches of a run from window to window."""

    def __init__(self, spec: AccumulationSpec) -> None:
        self.window = spec.window  # a longer one once a rollback has asked for it
        self.now = OpenWindow()
        self.batch: MicroBatch | None = None  # that is under way
        self.units = Units()
        self.rate_factor = 1.0
        self._spec = spec
        self._left_open: Mapping[str, Any] | None = None  # the window in whose middle a checkpoint was written

    @property
    def fixed(self) -> int | None:
        """Micro-batches in every window; None where the number depends on the update or on the batches."""
        return self.window.batches if isinstance(self.window, Fixed) else None

    @property
    def by_size(self) -> bool:
        """Whether a window closes when enough samples are in it, and so depends on all processes."""
        return self.window.by_size

    def enlarge(self, factor: int) -> None:
        """Plan longer windows than the user asked for; see ``Window.enlarged``."""
        self.window = self._spec.window.enlarged(factor)

    def start(self, state: Mapping[str, Any]) -> None:
        """A fit begins."""
        units = self.units
        self.units = Units(state.get("reference", units.reference), state.get("micro_size", units.micro_size))
        self.now, self._left_open = OpenWindow(), state.get("open")

    def end(self) -> None:
        """A fit is over."""
        self.batch = None

    # -- a micro-batch --------------------------------------------------------------------------------------------

    def resume(self, has_gradients: Callable[[], bool]) -> None:
        """Continue the window in whose middle the checkpoint was written, if its gradients were restored.

        Args:
            has_gradients: asked in the first micro-batch after a resume.
        """
        if self._left_open is not None:
            left_open, self._left_open = self._left_open, None
            if has_gradients():
                self.now = OpenWindow.from_state(left_open)

    def end_epoch(self) -> None:
        """An epoch has ended: Lightning gives up a window that it has left open, and so do we."""
        self.now = self.now._replace(over=self.now.over or self.now.batches > 0)

    def begin(self) -> None:
        """A window begins."""
        self.now = OpenWindow()

    def lose_gradients(self, *, under_way: bool) -> None:
        """Somebody has thrown the gradients away: what was in the window counts for nothing.

        Args:
            under_way: whether the present micro-batch has joined already, which goes on to count.
        """
        self.now = OpenWindow(self.now.planned)
        if under_way and self.batch is not None:
            self.now = self.now.joined_by(self.batch)

    def join(self, batch: MicroBatch) -> None:
        """A micro-batch begins."""
        self.batch, self.now = batch, self.now.joined_by(batch)

    def take_units(self, first: float, world: int) -> None:
        """Measure weights by the first micro-batch of a run, which has joined.

        Args:
            first: its weight on rank 0, so that the unit is the same on all processes.
        """
        assert self.batch is not None
        self.units = self.units.taken_from(first, self.batch.whole, world)

    def plan(self, updates: int) -> None:
        """Plan the window that has begun, and the factor on the learning rate that belongs to its size."""
        size = self.units.micro_size or 1.0
        planned = self.window.planned(size, updates)
        if planned != self.now.planned:
            self.now = self.now._replace(planned=planned)
        if self._spec.scales_rate:
            self.rate_factor = rate_factor(self._spec.lr_scaling, self.window, self.now.planned, size)

    def closes(self, updates: int) -> bool:
        """Whether the optimizer steps after the present micro-batch."""
        return self.window.closes(self.now.batches, self.now.size, updates)

    def loss_factor(self, weight: Weight) -> Weight:
        """Return the factor on the loss of a micro-batch; see ``OpenWindow.loss_factor``."""
        return self.now.loss_factor(weight, self.units.known())

    def correction(self, *, world: int = 1, weight: Weight | None = None) -> Weight:
        """Return the factor on the accumulated gradient; see ``OpenWindow.correction``."""
        return self.now.correction(self.units.known(), world=world, weight=weight)

    def state_dict(self, *, with_open_window: bool) -> dict[str, Any]:
        """Return the unit of weights, the factor on the rate, and the window that is open.

        Args:
            with_open_window: whether a resume could continue in its middle.
        """
        is_open = with_open_window and not self.now.over and self.now.backwards
        return {
            "open": self.now.state_dict() if is_open else None,
            "reference": self.units.reference,
            "micro_size": self.units.micro_size,
            "rate_factor": self.rate_factor,
        }
