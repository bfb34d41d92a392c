"""Logbook -> one asynchronous copy -> every logger of the Trainer, at the step to which the values belong.

Device values of a logged step travel to the host in one vector, into pinned memory, without waiting for the device.
They are handed to the loggers when they have arrived: on a CPU at once, on a GPU at one of the next batches, and at
validation, epoch end, exception or end at the latest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import Tensor

from lightning_tricks.publishing.events import Event, events
from lightning_tricks.publishing.log_keys import LogKeys
from lightning_tricks.publishing.recipients import Recipients, filled_layout
from lightning_tricks.publishing.trackers import Table
from lightning_tricks.publishing.transfer import Listener, Selector, Transfer

_LONGEST = 2000  # values of a key that tells of events which are kept for the pictures


class Cadence:
    """Says which steps are logged: every ``n``-th, or the first one after it where not every batch steps.

    Args:
        n: distance in steps of Lightning's loggers; 0 for never.
        start: the step at which the fit begins (after a resume not 0).

    Example:
        >>> cadence = Cadence(2)
        >>> [cadence.due(step) for step in range(5)]
        [False, True, False, True, False]
    """

    def __init__(self, n: int, start: int = 0) -> None:
        self.n = n
        self._bucket = start // n if n else 0
        self._step = -1

    def due(self, step: int) -> bool:
        """Whether the step with this number (from 0) is logged. All optimizers of one step get the same answer."""
        if not self.n:
            return False
        bucket = (step + 1) // self.n
        if bucket > self._bucket:
            self._bucket, self._step = bucket, step
        return step == self._step


class Publisher:
    """Sends what was measured to the loggers.

    Args:
        loggers: gives the Trainer's loggers; asked at each delivery, since users may change the list.
        of_the_user: gives the keys that the training script has logged so far.
    """

    def __init__(
        self, loggers: Callable[[], Sequence[Any]], of_the_user: Callable[[], Iterable[str]] = lambda: ()
    ) -> None:
        self._recipients, self._of_the_user = Recipients(loggers), of_the_user
        self._charted: set[str] = set()  # keys that the layout of the dashboard was made for
        self._open: Transfer | None = None
        self._travelling: deque[Transfer] = deque()
        self._record: dict[str, deque[tuple[int, float]]] = {}
        self.latest: dict[str, float] = {}
        self.keys = LogKeys(())  # of the callbacks in this run: which values tell of events, and which charts there are

    @property
    def events(self) -> list[Event]:
        """What happened so far, as far as it is remembered."""
        return events({key: list(points) for key, points in self._record.items()}, self.keys)

    def introduce(self, configuration: Mapping[str, Any]) -> None:
        """A run begins: give the loggers the configuration, the module's own hyperparameters among it."""
        self._recipients.introduce(configuration)

    def guard(self) -> None:
        """Training begins: from now on no logger's system error may end it, not even in Lightning's own calls."""
        self._recipients.guard()

    def put(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Add named values to the transfer of ``step``: numbers or 0-d tensors."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                self.put_many(step, [name], value.reshape(1))
            else:
                self._transfer(step).numbers[name] = float(value)

    def put_many(self, step: int, names: Sequence[str], values: Tensor) -> None:
        """Add a vector ``[n]`` under ``n`` names."""
        transfer = self._transfer(step)
        transfer.names += names
        # a copy: the value at this moment, whatever is written into the tensor before the transfer leaves
        transfer.tensors.append(values.detach().clone())

    def put_private(self, step: int, values: Tensor, listener: Listener) -> None:
        """Send a vector ``[n]`` along that no logger sees; ``listener`` gets it as floats when it has arrived."""
        self._transfer(step).private.append((values.detach(), listener))

    def put_selected(self, step: int, values: Tensor, select: Selector) -> None:
        """Send a vector ``[n]`` along; ``select`` gets it as floats on the host, and returns what is logged of it."""
        self._transfer(step).selected.append((values.detach().clone(), select))

    def put_histogram(self, step: int, name: str, values: Tensor) -> None:
        """Add a sample of values for loggers that draw histograms; copied to the host with the rest."""
        self._transfer(step).histograms[name] = values.detach().clone()

    def log_text(self, step: int, name: str, text: str) -> None:
        """Send text to every logger, at once; it is kept on disk where a logger takes none."""
        self._recipients.give("text", step, name, lambda: text)

    def tabulate(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Send a table to every logger, at once; it is kept on disk where a logger takes none."""
        self._recipients.give("table", step, name, lambda: Table(columns, rows))

    def draw(self, step: int, name: str, figure: Callable[[], Any]) -> None:
        """Send a matplotlib figure to every logger, at once; nothing happens where matplotlib is missing."""
        self._recipients.give("figure", step, name, cache(figure))

    def holds(self, step: int) -> bool:
        """Whether something was put in for ``step`` whose transfer has not started."""
        return self._open is not None and self._open.step == step

    def start_transfer(self) -> None:
        """Start the copy of the open transfer, and deliver what has arrived."""
        if self._open is not None:
            transfer, self._open = self._open, None
            transfer.send()
            self._travelling.append(transfer)
        self.deliver()

    def deliver(self, *, wait: bool = False) -> None:
        """Hand over the transfers that have arrived, in order; with ``wait`` all of them."""
        while self._travelling and self._travelling[0].has_arrived(wait=wait):
            self._hand_over(self._travelling.popleft())

    def flush(self) -> None:
        """Ship and deliver everything, waiting for the device."""
        self.start_transfer()
        self.deliver(wait=True)

    def drop(self) -> None:
        """Forget what was not delivered."""
        self._open = None
        self._travelling.clear()

    def _transfer(self, step: int) -> Transfer:
        if self._open is not None and self._open.step != step:
            self.start_transfer()
        if self._open is None:
            self._open = Transfer(step)
        return self._open

    def _hand_over(self, transfer: Transfer) -> None:
        values, samples, private = transfer.read()
        self.latest.update(values)
        for name in filter(self.keys.event_of, values):
            self._record.setdefault(name, deque(maxlen=_LONGEST)).append((transfer.step, values[name]))
        self._recipients.log(values, samples, transfer.step)
        self._lay_out(transfer.step)
        for listener, numbers in private:
            listener(numbers)

    def _lay_out(self, step: int) -> None:
        """Write the layout of TensorBoard's dashboard when a key has come up; TensorBoard shows the last one."""
        of_the_user = set(self._of_the_user())
        keys = {*self.latest, *of_the_user}
        if not keys <= self._charted:
            self._charted |= keys
            self._recipients.lay_out(filled_layout(self.keys, self.latest, of_the_user), step)
