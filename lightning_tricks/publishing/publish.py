"""Logbook -> one asynchronous copy -> every logger of the Trainer, at the step to which the values belong.

Device values of a logged step travel to the host in one vector, into pinned memory, without waiting for the device.
They are handed to the loggers when they have arrived: on a CPU at once, on a GPU at one of the next batches, and at
validation, epoch end, exception or end at the latest.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial, reduce
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_tricks.publishing.dashboard import filled_layout, write_hyperparameters
from lightning_tricks.publishing.events import Event, events
from lightning_tricks.publishing.log_keys import LogKeys
from lightning_tricks.publishing.loggers import guard, system_error
from lightning_tricks.publishing.trackers import Kind, Table, hand_over, is_of_another_rank, key_for, offered, way_of

Listener = Callable[[list[float]], None]
Selector = Callable[[list[float]], Mapping[str, float] | None]

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


@dataclass
class _Transfer:
    """Values of one step on their way to the host."""

    step: int
    numbers: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    private: list[tuple[Tensor, Listener]] = field(default_factory=list)
    selected: list[tuple[Tensor, Selector]] = field(default_factory=list)
    histograms: dict[str, Tensor] = field(default_factory=dict)
    host: Tensor | None = None
    arrived: Any = None


class Publisher:
    """Sends what was measured to the loggers.

    Args:
        loggers: gives the Trainer's loggers; asked at each delivery, since users may change the list.
        of_the_user: gives the keys that the training script has logged so far.
    """

    def __init__(
        self, loggers: Callable[[], Sequence[Any]], of_the_user: Callable[[], Iterable[str]] = lambda: ()
    ) -> None:
        self._loggers, self._of_the_user = loggers, of_the_user
        self._charted: set[str] = set()  # keys that the layout of the dashboard was made for
        self._open: _Transfer | None = None
        self._travelling: deque[_Transfer] = deque()
        self._broken: set[int] = set()
        self._failing: set[int] = set()
        self._said: set[int] = set()
        self._record: dict[str, deque[tuple[int, float]]] = {}
        self.latest: dict[str, float] = {}
        self.keys = LogKeys(())  # of the callbacks in this run: which values tell of events, and which charts there are

    @property
    def events(self) -> list[Event]:
        """What happened so far, as far as it is remembered."""
        return events({key: list(points) for key, points in self._record.items()}, self.keys)

    def introduce(self, configuration: Mapping[str, Any]) -> None:
        """A run begins: give the loggers the configuration.

        TensorBoard shows the first hyperparameters of a run only, so these have to hold the module's own too.
        """
        for logger in self._loggers():
            try:
                if _can(logger, "add_hparams"):
                    logger.log_hyperparams(dict(configuration), {})  # for its hparams.yaml alone
                    write_hyperparameters(logger.experiment, configuration)
                else:
                    logger.log_hyperparams(dict(configuration))
            except Exception as error:  # whatever a logger does, training goes on
                self._give_up(logger, error, 0, lasting=False)  # (MLflow's refuses an argument that has changed)

    def guard(self) -> None:
        """Training begins: from now on no logger's system error may end it, in Lightning's own calls neither."""
        for logger in self._loggers():
            guard(logger, partial(self._give_up, logger))

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

    def tell(self, step: int, name: str, text: str) -> None:
        """Send text to every logger, at once; it is kept on disk where a logger takes none."""
        self._give("text", step, name, lambda: text)

    def tabulate(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Send a table to every logger, at once; it is kept on disk where a logger takes none."""
        self._give("table", step, name, lambda: Table(columns, rows))

    def draw(self, step: int, name: str, figure: Callable[[], Any]) -> None:
        """Send a matplotlib figure to every logger, at once; nothing happens where matplotlib is missing."""
        self._give("figure", step, name, cache(figure))

    def _give(self, kind: Kind, step: int, name: str, content: Callable[[], Any]) -> None:
        for logger in self._loggers():
            if id(logger) in self._broken or is_of_another_rank(logger):
                continue
            try:
                with suppress(ImportError):  # of matplotlib
                    self._say_where(logger, hand_over(logger, kind, name, content, step))
            except Exception as error:  # whatever a logger does, training goes on
                self._give_up(logger, error, step, lasting=False)

    def _say_where(self, logger: Any, taken: Path | bool) -> None:
        """Say once per logger where that is which it does not take."""
        if isinstance(taken, Path) and id(logger) not in self._said:
            self._said.add(id(logger))
            name = type(logger).__name__
            rank_zero_info(f"{name} does not take every text, table and picture. They are written into {taken}.")

    def holds(self, step: int) -> bool:
        """Whether something was put in for ``step`` that has not been shipped."""
        return self._open is not None and self._open.step == step

    def _transfer(self, step: int) -> _Transfer:
        if self._open is not None and self._open.step != step:
            self.ship()
        if self._open is None:
            self._open = _Transfer(step)
        return self._open

    def ship(self) -> None:
        """Start the copy of the open transfer, and deliver what has arrived."""
        if self._open is not None:
            transfer, self._open = self._open, None
            _send(transfer)
            self._travelling.append(transfer)
        self.deliver()

    def deliver(self, *, wait: bool = False) -> None:
        """Hand over the transfers that have arrived, in order; with ``wait`` all of them."""
        while self._travelling:
            transfer = self._travelling[0]
            if transfer.arrived is not None and not transfer.arrived.query():
                if not wait:
                    return
                transfer.arrived.synchronize()
            self._travelling.popleft()
            self._hand_over(transfer)

    def flush(self) -> None:
        """Ship and deliver everything, waiting for the device."""
        self.ship()
        self.deliver(wait=True)

    def drop(self) -> None:
        """Forget what was not delivered."""
        self._open = None
        self._travelling.clear()

    def _hand_over(self, transfer: _Transfer) -> None:
        floats = iter([] if transfer.host is None else transfer.host.tolist())
        values = {**transfer.numbers, **dict(zip(transfer.names, floats, strict=False))}
        samples = {name: list(islice(floats, h.numel())) for name, h in transfer.histograms.items()}
        told = [(listener, list(islice(floats, v.numel()))) for v, listener in transfer.private]
        for vector, select in transfer.selected:
            values.update(select(list(islice(floats, vector.numel()))) or {})
        self.latest.update(values)
        for name in filter(self.keys.event_of, values):
            self._record.setdefault(name, deque(maxlen=_LONGEST)).append((transfer.step, values[name]))
        for logger in self._loggers():
            if id(logger) not in self._broken:
                self._log(logger, values, samples, transfer.step)
        self._lay_out(transfer.step)
        for listener, numbers in told:
            listener(numbers)

    def _lay_out(self, step: int) -> None:
        """Write the layout of TensorBoard's dashboard when a key has come up; TensorBoard shows the last one."""
        of_the_user = set(self._of_the_user())
        keys = {*self.latest, *of_the_user}
        if keys <= self._charted:
            return
        self._charted |= keys
        layout = filled_layout(self.keys, self.latest, of_the_user)
        for logger in self._loggers():
            if id(logger) not in self._broken and _can(logger, "add_custom_scalars"):
                try:
                    logger.experiment.add_custom_scalars(layout)
                except Exception as error:  # whatever a logger does, training goes on
                    self._give_up(logger, error, step, lasting=False)

    def _log(self, logger: Any, values: dict[str, float], samples: dict[str, list[float]], step: int) -> None:
        try:
            if values:
                logger.log_metrics({key_for(logger, key): value for key, value in values.items()}, step=step)
            for name, sample in samples.items():
                hand_over(logger, "histogram", name, partial(list, sample), step)
        except Exception as error:  # whatever a logger does, training goes on
            self._give_up(logger, error, step)

    def _give_up(self, logger: Any, error: Exception, step: int | None, *, lasting: bool = True) -> None:
        """Tell it once. What failed by the system's fault (no space, no network) is tried again; all else is not.

        Args:
            lasting: whether a logger that failed so gets no more values.
        """
        told = id(logger) in self._failing
        self._failing.add(id(logger))
        consequence = "Each value is tried, and may be lost"
        if lasting and system_error(error) is None:
            self._broken.add(id(logger))
            consequence = "lightning_tricks logs no more to it"
        if not told:
            where = "" if step is None else f" at step {step}"
            warnings.warn(
                f"{type(logger).__name__} failed{where} ({type(error).__name__}: {error}). "
                f"{consequence}; training goes on.",
                RuntimeWarning,
                stacklevel=3,
            )


def _can(logger: Any, method: str) -> bool:
    """Whether a logger's experiment has a method. On ranks that do not log, Lightning's stand-in has all of them."""
    return not is_of_another_rank(logger) and offered(logger, f"experiment.{method}") is not None


def draws_histograms(logger: Any) -> bool:
    """Whether a logger takes histograms, told by what it offers."""
    return way_of(logger, "histogram") is not None


def _send(transfer: _Transfer) -> None:
    histograms = [h.reshape(-1) for h in transfer.histograms.values()]
    tensors = transfer.tensors + histograms + [v for v, _ in (*transfer.private, *transfer.selected)]
    if not tensors:
        return
    # in float64 where a value is: norms of a float64 run may be beyond the range of float32
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    device = device_of(tensors)
    if device.type != "cuda":
        transfer.host = torch.cat([t.to(device=device, dtype=dtype) for t in tensors]).cpu()
    else:
        # what lies on the host is written into the host's vector: sent to the device and back it could wait for it
        transfer.host = torch.empty(sum(t.numel() for t in tensors), dtype=dtype, pin_memory=True)
        places = torch.split(transfer.host, [t.numel() for t in tensors])
        for place, t in zip(places, tensors, strict=True):
            if t.device.type == "cpu":
                place.copy_(t)
        for start, end, run in runs_of([t.device.type != "cpu" for t in tensors], [t.numel() for t in tensors]):
            vector = torch.cat([t.to(device=device, dtype=dtype, non_blocking=True) for t in tensors[run]])
            transfer.host[start:end].copy_(vector, non_blocking=True)
        transfer.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        transfer.arrived.record(torch.cuda.current_stream(device))
    transfer.tensors = []


def device_of(tensors: Sequence[Tensor]) -> torch.device:
    """Return the device on which values are gathered: that of the first one that does not lie on the host.

    A value on the host may come first, as a learning rate of a resumed run does. Gathered there, values of a GPU would
    be read before they are computed.

    >>> device_of([torch.zeros(1), torch.zeros(1, device="meta")])
    device(type='meta')
    """
    return next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)


def runs_of(remote: Sequence[bool], sizes: Sequence[int]) -> list[tuple[int, int, slice]]:
    """Return the uninterrupted runs of remote tensors: the range of their values, and of the tensors.

    >>> runs_of([True, True, False, True], [1, 2, 3, 4])
    [(0, 3, slice(0, 2, None)), (6, 10, slice(3, 4, None))]
    """
    ends = list(accumulate(sizes, initial=0))
    out = []
    for is_remote, run in groupby(range(len(sizes)), key=remote.__getitem__):
        if is_remote:
            members = list(run)
            out.append((ends[members[0]], ends[members[-1] + 1], slice(members[0], members[-1] + 1)))
    return out
