from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks.diagnosis import memory_level
from lightning_tricks.diagnosis.memory import Moment, Prospect
from lightning_tricks.diagnosis.memory_level import MemoryLevel
from lightning_tricks.diagnosis.memory_readings import Reading
from lightning_tricks.diagnosis.memory_use import BatchSize

SIZE = BatchSize(nbytes=100, elements=25)


def moment(i: int) -> Moment:
    return Moment(10 * i, 0, 10 * i)


def test_on_a_device_the_batch_is_left_out_and_on_the_host_it_cannot_be() -> None:
    assert MemoryLevel().add(moment(1), Reading(allocated=1000.0, resident=5.0), SIZE) == 900.0
    assert MemoryLevel().add(moment(1), Reading(resident=5000.0), SIZE) == 5000.0


def test_a_larger_batch_begins_the_curve_again_and_a_smaller_one_does_not() -> None:
    level = MemoryLevel()
    for i, elements in enumerate([5, 5, 4, 6, 6]):
        level.add(moment(i), Reading(resident=1e9 + i), BatchSize(elements=elements))
    assert [m.update for m, _ in level.points] == [30, 40]
    assert level.largest.elements == 6


def test_what_is_not_known_makes_no_point_and_long_curves_are_thinned_out() -> None:
    level = MemoryLevel()
    level.add(moment(0), Reading(), SIZE)
    assert level.points == []
    for i in range(1000):
        level.add(moment(i), Reading(resident=3e6 * i), SIZE)
    assert len(level.points) <= 64
    assert level.points[0][0] == moment(0) and level.points[-1][0] == moment(999)
    assert level.rate == pytest.approx(3e5), "bytes per update"


def test_memory_that_will_be_full_grows_for_certain() -> None:
    level = MemoryLevel()
    for i in range(20):
        level.add(moment(i), Reading(allocated=1e9 + 2e7 * i), BatchSize())
    growth = level.growth(Prospect(model=0.0, free=1e9, left=1e6))
    assert growth is not None and growth.certain
    assert growth.full_after == pytest.approx(1e9 / 2e6)
    assert level.growth(Prospect(model=0.0, free=math.inf, left=1e6)).certain is False  # type: ignore[union-attr]


@pytest.mark.parametrize("event", ["_renewed", "_rolled_back"])
def test_other_parameters_and_a_rollback_begin_the_curve_again(event: str) -> None:
    level = MemoryLevel()
    level.add(moment(1), Reading(resident=1e9), SIZE)
    arguments: list[Any] = [None, None] if event == "_renewed" else [None]
    getattr(level, event)(*arguments)
    assert level.points == [] and level.largest == SIZE


def test_the_device_of_the_run_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def read(self) -> Reading:
            return Reading(allocated=5.0) if self.device.type == "meta" else Reading(resident=5.0)

    monkeypatch.setattr(memory_level, "MemoryReader", Reader)
    for device, there in (("meta", True), ("cpu", False)):
        level = MemoryLevel()
        assert math.isnan(level.read().used), "before the run nothing is read"
        strategy = SimpleNamespace(root_device=torch.device(device))
        level._on_start(SimpleNamespace(trainer=SimpleNamespace(strategy=strategy)), None)  # type: ignore[arg-type]
        assert level.on_device is there and level.read().used == 5.0
