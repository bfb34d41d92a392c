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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Readings:
    """What was measured of a lane beside the seconds of its blocks, one entry for each block.

    Args:
        host_share: of the last block's time, the share that the host took to launch it.
        device_seconds: per step, in the GPU's own time.
        thread_seconds: per step, of the lane's thread.
        joules: per step.
        finished: for each step, whether the GPU had finished the step before at its end.
    """

    host_share: float = 0.0
    device_seconds: list[float] = field(default_factory=list)
    thread_seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)

    @property
    def caught_up(self) -> float | None:
        """Share of steps at whose end the GPU had finished the step before; None without a GPU.

        Near 1, the GPU waits for the host; near 0, the host runs ahead. A host read in every step looks like the former.
        """
        return sum(self.finished) / len(self.finished) if self.finished else None


_CURRENT = threading.local()


class Turns:
    """The batches of the lane whose thread asks for them: data that hold no thread.

    A callback that runs a batch again refuses to do so beside a running thread, and its cost would not be measured.
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(_CURRENT.lane)


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
        self._seconds = 0.0
        self.readings = Readings()
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

    def kernel_seconds(self, steps: int = 3) -> float | None:
        """Return how long kernels run in a step, from a profile; None without a GPU, or where it cannot be taken."""
        if not torch.cuda.is_available():
            return None
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                self.block(steps)
            events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
        except Exception:  # whatever a profiler lacks on a box: the figure is missing, and the block is not
            return None
        on_gpu = [e for e in events if "CUDA" in str(e.device_type()) and not _is_annotation(e)]
        return covered([(e.start_ns(), e.start_ns() + e.duration_ns()) for e in on_gpu]) / 1e9 / steps or None

    def stop(self) -> None:
        """Let the training end."""
        self._stop = True
        with self._around():
            self._go.release()
            self._thread.join(timeout=60)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)  # holds for the calling thread only
        _CURRENT.lane = self
        try:
            self._train(Turns())
        except BaseException as error:  # handed to the thread that waits for this lane
            self.error = error
        finally:
            self._done.release()

    def __iter__(self) -> Iterator[Any]:
        left = served = 0
        begin: Any = None
        last: Any = None  # the mark at the end of the step before
        started = used = 0.0
        while True:
            if served and (now := _event()) is not None:
                if last is not None and left:
                    self.readings.finished.append(last.query())
                last = now
            if left == 0:
                if served:
                    launched = time.perf_counter() - started
                    self.readings.thread_seconds.append((time.thread_time() - used) / self._steps)
                    end = _event()
                    _synchronize()
                    self._seconds = time.perf_counter() - started
                    self.readings.host_share = launched / self._seconds
                    if begin is not None and end is not None:
                        self.readings.device_seconds.append(1e-3 * begin.elapsed_time(end) / self._steps)
                    self._done.release()
                self._go.acquire()
                if self._stop:
                    return
                left, used, last = self._steps, time.thread_time(), None
                started = time.perf_counter()
                begin = _event()
            left -= 1
            served += 1
            yield self._batches[served % len(self._batches)]


def _is_annotation(event: Any) -> bool:
    """Whether an entry of a profile is a range that somebody named, which holds kernels and is none."""
    named = getattr(event, "is_user_annotation", None)
    return bool(named and named()) or event.name().startswith(("Optimizer.", "ProfilerStep", "[", "## "))


def covered(ranges: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of ranges: kernels of several streams overlap.

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, until = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total if ranges else 0.0


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
    enough: Callable[[], bool] = lambda: False,
    meter: Callable[[], float | None] = lambda: None,
) -> dict[str, list[float]]:
    """Return seconds per step of every lane in every round. The order within a round is shuffled.

    Args:
        lanes: the variants.
        rounds: blocks of each.
        steps: of a block; by name of the lane where they differ.
        warmup: steps of each before the first round; 0 for none.
        tick: called after each round.
        seed: of the order.
        enough: asked before every round; True ends the measurement.
        meter: a counter of energy in joules, read around every block; its difference goes to ``lane.readings.joules``.
    """
    order = random.Random(seed)
    for lane in lanes if warmup else ():
        lane.block(warmup)
    seconds: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    for _ in range(rounds):
        if enough():
            break
        for lane in order.sample(lanes, len(lanes)):
            count = steps if isinstance(steps, int) else steps[lane.name]
            before = meter()
            seconds[lane.name].append(lane.block(count))
            after = meter()
            if before is not None and after is not None:
                lane.readings.joules.append((after - before) / count)
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


LEAST_ROUNDS = 5  # the bootstrap of fewer covers less than it says: of 3 values 76 %, of 2 values 51 %


class TooLittleTimeError(RuntimeError):
    """Fewer rounds were measured than an interval needs."""


def sessions_of(rounds: int, sessions: int) -> list[int]:
    """Return for each round the session in which it is measured; in each session there are two rounds or more.

    >>> sessions_of(6, 3)
    [0, 0, 1, 1, 2, 2]
    >>> sessions_of(5, 5)
    [0, 0, 1, 1, 1]
    """
    sessions = max(1, min(sessions, rounds // 2))
    return [s for s in range(sessions) for _ in range(rounds * (s + 1) // sessions - rounds * s // sessions)]


def median_interval(
    values: list[float], seed: int = 0, resamples: int = 2000, sessions: Sequence[int] | None = None
) -> Estimate:
    """Return the median with a 95 % bootstrap interval.

    Args:
        values: of rounds.
        seed: of the drawing.
        resamples: how often it is drawn.
        sessions: for each value the session it comes from. Rounds of a session resemble one another: sessions are drawn
            first, then rounds within them.

    >>> median_interval([1.0] * 9)
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    draw = random.Random(seed)
    groups = [list(values)]
    if sessions is not None:
        groups = [[v for v, of in zip(values, sessions, strict=True) if of == s] for s in sorted(set(sessions))]

    def drawn() -> list[float]:
        picked = draw.choices(groups, k=len(groups)) if len(groups) > 1 else groups
        return [v for group in picked for v in draw.choices(group, k=len(group))]

    medians = sorted(statistics.median(drawn()) for _ in range(resamples))
    low, high = medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]
    return Estimate(statistics.median(values), low, high)


def paired(
    seconds: dict[str, list[float]],
    row: str,
    base: str,
    how: Callable[[float, float], float],
    sessions: Sequence[int] | None = None,
) -> Estimate:
    """Return the interval of ``how(row, base)`` over rounds, drawn by session where they are given."""
    return median_interval([how(a, b) for a, b in zip(seconds[row], seconds[base], strict=True)], sessions=sessions)


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
