"""Values of one step on their way from the device to the host: one vector, copied without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, groupby, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

Listener = Callable[[list[float]], None]
Selector = Callable[[list[float]], Mapping[str, float] | None]


class Arrived(NamedTuple):
    """What a transfer has brought to the host.

    Args:
        values: what is logged, by key.
        samples: of histograms, by key.
        private: listeners, each with the numbers that it waits for.
    """

    values: dict[str, float]
    samples: dict[str, list[float]]
    private: list[tuple[Listener, list[float]]]


@dataclass
class Transfer:
    """Values of one step on their way to the host.

    Args:
        numbers: values that lie on the host already, by key.
        names: keys of the elements of ``tensors``, in their order.
        tensors: vectors of values that are logged.
        private: vectors that no logger sees, each with who gets its numbers.
        selected: vectors, each with the function that says what is logged of it.
        histograms: samples, by key.
        host: all of them in one vector, once it was sent.
        arrived: an event of the device that has happened when the copy is complete; None where nothing is waited for.

    Example:
        >>> transfer = Transfer(step=3, numbers={"a": 1.0}, names=["b"], tensors=[torch.ones(1)])
        >>> transfer.send()
        >>> transfer.read().values
        {'a': 1.0, 'b': 1.0}
    """

    step: int
    numbers: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    private: list[tuple[Tensor, Listener]] = field(default_factory=list)
    selected: list[tuple[Tensor, Selector]] = field(default_factory=list)
    histograms: dict[str, Tensor] = field(default_factory=dict)
    host: Tensor | None = None
    arrived: Any = None

    def send(self) -> None:
        """Start the copy to the host."""
        histograms = [h.reshape(-1) for h in self.histograms.values()]
        tensors = self.tensors + histograms + [v for v, _ in (*self.private, *self.selected)]
        if not tensors:
            return
        # in float64 where a value is: norms of a float64 run may be beyond the range of float32
        dtype = reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
        device = device_of(tensors)
        if device.type != "cuda":
            # (pinned memory and events are CUDA's: on other accelerators the copy waits)
            self.host = torch.cat([t.to(device=device, dtype=dtype) for t in tensors]).cpu()
        else:
            self.host = _pinned_copy(tensors, dtype, device)
            self.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.arrived.record(torch.cuda.current_stream(device))
        # (the vector holds them now: their memory on the device may be used again)
        self.tensors = []

    def has_arrived(self, *, wait: bool) -> bool:
        """Whether the copy is complete."""
        if self.arrived is not None and not self.arrived.query():
            if not wait:
                return False
            self.arrived.synchronize()
        return True

    def read(self) -> Arrived:
        """Return everything as numbers of the host, in the order in which ``send`` put it into the vector."""
        floats = iter([] if self.host is None else self.host.tolist())
        # ``zip`` asks the names first: at their end it has taken no float that belongs to what follows.
        values = {**self.numbers, **dict(zip(self.names, floats, strict=False))}
        samples = {name: list(islice(floats, h.numel())) for name, h in self.histograms.items()}
        private = [(listener, list(islice(floats, v.numel()))) for v, listener in self.private]
        for vector, select in self.selected:
            values.update(select(list(islice(floats, vector.numel()))) or {})
        return Arrived(values, samples, private)


def _pinned_copy(tensors: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a vector in pinned memory into which all tensors are being copied.

    What lies on the host is written into the host's vector: sent to the device and back it could wait for it.
    """
    sizes = [t.numel() for t in tensors]
    host = torch.empty(sum(sizes), dtype=dtype, pin_memory=True)
    for place, t in zip(torch.split(host, sizes), tensors, strict=True):
        if t.device.type == "cpu":
            place.copy_(t)
    for start, end, run in runs_of([t.device.type != "cpu" for t in tensors], sizes):
        vector = torch.cat([t.to(device=device, dtype=dtype, non_blocking=True) for t in tensors[run]])
        host[start:end].copy_(vector, non_blocking=True)
    return host


def device_of(tensors: Sequence[Tensor]) -> torch.device:
    """Return the device on which values are gathered: that of the first one that does not lie on the host.

    A value on the host may come first, as a learning rate of a resumed run does. Gathered there, values of a GPU would
    be read before they are computed.
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
