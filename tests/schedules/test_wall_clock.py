from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lightning_tricks.schedules.wall_clock import WallClock


def test_one_process_reads_the_time_at_every_update() -> None:
    times = iter([0.1, 0.2])
    clock = WallClock(lambda: next(times))
    alone: Any = SimpleNamespace(world_size=1)
    assert [clock.share(alone, attempt) for attempt in (1, 2)] == [0.1, 0.2] and clock.elapsed == 0.2


def test_several_processes_take_the_time_of_rank_0_every_16_attempts_and_keep_it_between() -> None:
    asked: list[float] = []

    def broadcast(value: float) -> float:
        asked.append(value)
        return 0.5

    many: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(broadcast=broadcast))
    clock = WallClock(lambda: 0.9, elapsed=0.25)
    assert clock.share(many, 3) == 0.25, "what a checkpoint holds"
    assert [clock.share(many, attempt) for attempt in range(16, 32)] == [0.5] * 16
    assert asked == [0.9]
