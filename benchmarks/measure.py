"""Interleaved measuring: every variant runs in a lane of its own, and short blocks of all lanes take turns.

Machines are noisy: their clock, their neighbours and their caches change within minutes. Two variants that are measured
one after the other differ by that noise; blocks that alternate within a second share it, and their ratio does not.
A Trainer cannot be paused from outside, so each lane is a thread that waits in its data loader for the baton. Only one
lane ever runs.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch


class Lane:
    """One variant: a training that advances in blocks of steps.

    Args:
        name: of the row.
        train: called with an endless iterable of batches; trains until the iterable ends.
        batches: the batches, taken in turn.
        threads: torch threads.
        around: entered for the time of each block, as for flags of the whole process.
    """

    def __init__(
        self,
        name: str,
        train: Callable[[Any], None],
        batches: list[Any],
        threads: int,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.name, self._around = name, around
        self._train, self._batches, self._threads = train, batches, threads
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._steps = 0
        self._started = 0.0
        self._seconds = 0.0
        self.host_share = 0.0
        self.device_seconds: list[float] = []
        self._stop = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"lane {name}", daemon=True)
        self._thread.start()

    def block(self, steps: int) -> float:
        """Run that many steps; return seconds per step. Raises what the training raised."""
        self._steps = steps
        with self._around():
            self._go.release()
            self._done.acquire()
        if self.error is not None:
            raise self.error
        return self._seconds / steps

    def stop(self) -> None:
        """Let the training end."""
        self._stop = True
        with self._around():
            self._go.release()
            self._thread.join(timeout=60)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)  # holds for the calling thread only
        try:
            self._train(self)
        except BaseException as error:  # handed to the thread that waits for this lane
            self.error = error
        finally:
            self._done.release()

    def __iter__(self) -> Iterator[Any]:
        left = served = 0
        begin: Any = None
        while True:
            if left == 0:
                if served:
                    launched = time.perf_counter() - self._started
                    end = _event()
                    _synchronize()
                    self._seconds = time.perf_counter() - self._started
                    self.host_share = launched / self._seconds
                    if begin is not None and end is not None:
                        self.device_seconds.append(1e-3 * begin.elapsed_time(end) / self._steps)
                    self._done.release()
                self._go.acquire()
                if self._stop:
                    return
                left = self._steps
                self._started = time.perf_counter()
                begin = _event()
            left -= 1
            served += 1
            yield self._batches[served % len(self._batches)]


def _event() -> Any:
    """A mark in the GPU's own time; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(
    lanes: list[Lane],
    rounds: int,
    steps: int | dict[str, int],
    warmup: int,
    tick: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return seconds per step of every lane in every round. The order within a round is shuffled.

    Args:
        lanes: the variants.
        rounds: blocks of each.
        steps: of a block; by name of the lane where they differ.
        warmup: steps of each before the first round; 0 for none.
        tick: called after each round.
        seed: of the order.
    """
    order = random.Random(seed)
    for lane in lanes if warmup else ():
        lane.block(warmup)
    seconds: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    for _ in range(rounds):
        for lane in order.sample(lanes, len(lanes)):
            seconds[lane.name].append(lane.block(steps if isinstance(steps, int) else steps[lane.name]))
        tick()
    return seconds


@dataclass(frozen=True)
class Estimate:
    """A median with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def median_interval(values: list[float], seed: int = 0, resamples: int = 2000) -> Estimate:
    """Return the median with a 95 % bootstrap interval.

    >>> median_interval([1.0] * 9)
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples))
    low, high = medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]
    return Estimate(statistics.median(values), low, high)


def paired(seconds: dict[str, list[float]], row: str, base: str, how: Callable[[float, float], float]) -> Estimate:
    """Return the interval of ``how(row, base)`` over rounds."""
    return median_interval([how(a, b) for a, b in zip(seconds[row], seconds[base], strict=True)])


def difference_interval(first: list[float], second: list[float], confidence: float) -> Estimate:
    """Return the mean paired difference ``first - second`` with a t interval.

    >>> difference_interval([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.9)
    Estimate(value=0.0, low=0.0, high=0.0)
    """
    from scipy.stats import t

    apart = [a - b for a, b in zip(first, second, strict=True)]
    mean = statistics.fmean(apart)
    error = statistics.stdev(apart) / len(apart) ** 0.5
    half = float(t.ppf(0.5 + confidence / 2, len(apart) - 1)) * error
    return Estimate(mean, mean - half, mean + half)


def equivalence(first: list[float], second: list[float], margin: float) -> tuple[str, Estimate]:
    """Two one-sided t tests at 5 % each (TOST): is ``first`` within ``margin`` of ``second``, in paired runs?

    Returns:
        ``EQUIVALENT`` when the 90 % interval of the mean difference lies within the margin, ``WORSE`` when it lies below
        ``-margin``, ``BETTER`` when above ``margin``, else ``INCONCLUSIVE``; and that interval.

    Reference: Schuirmann, 1987; Lakens, 2017.

    >>> equivalence([90.1, 90.0, 89.9, 90.0], [90.0, 90.0, 90.0, 90.0], 0.5)[0]
    'EQUIVALENT'
    """
    interval = difference_interval(first, second, 0.9)
    if -margin < interval.low and interval.high < margin:
        return "EQUIVALENT", interval
    if interval.high < -margin:
        return "WORSE", interval
    return ("BETTER" if interval.low > margin else "INCONCLUSIVE"), interval
