from __future__ import annotations

import numpy
import pytest
import torch

from lightning_tricks.schedules.course import Course
from lightning_tricks.schedules.curves import Constant, Linear
from lightning_tricks.schedules.plan import Track
from lightning_tricks.schedules.position import MultiplierTables, looked_up, position_of, table_size
from lightning_tricks.schedules.run_curve import Curve


def track(total: int = 100, **course: float) -> Track:
    curve = Curve(Linear(), 0, "linear", 0.0, 0, 0.0, total)
    return Track(Course(total, total, total, **course), (curve,))  # type: ignore[arg-type]


def test_the_position_is_the_number_of_updates_and_the_host_knows_it() -> None:
    position = position_of(track(), 7, 9)
    assert (position.exact, position.on_host) == (7, 7)
    assert position_of(track(), torch.tensor(7), 9) == position, "a tensor on the host is a number"


@pytest.mark.parametrize(("time", "expected"), [(None, 10), (0.05, 10), (0.525, 50), (1.0, 100)])
def test_time_hurries_a_run_that_it_would_end_before_its_curve(time: float | None, expected: int) -> None:
    assert position_of(track(), 10, 10, time=time).exact == expected
    assert position_of(track(), 99, 99, time=0.525).exact == 99, "and never holds it back"


def test_where_only_the_device_knows_the_host_counts_what_it_heard_last() -> None:
    applied = torch.tensor(7, device="meta")
    position = position_of(track(), applied, 12, skipped=3)
    assert isinstance(position.exact, torch.Tensor) and position.exact.device.type == "meta"
    assert position.on_host == 9


def test_a_table_is_interpolated_as_numpy_does_and_ends_at_its_last_entry() -> None:
    table = torch.tensor([1.0, 0.5, 0.25, 0.0])
    for at in (0.0, 0.3, 1.5, 2.75, 3.0, 8.0):
        assert float(looked_up(table, torch.tensor(at))) == pytest.approx(numpy.interp(at, range(4), table.numpy()))
    assert float(looked_up(table, torch.tensor(2))) == 0.25 and float(looked_up(table, torch.tensor(9))) == 0.0


def test_a_table_is_as_long_as_the_curve_and_grows_only_when_it_must() -> None:
    curve, endless = track(10_000).curves[0], Curve(Constant(), 0, "linear", 0.0, 0, 0.0, None)
    assert table_size(track(50).curves[0], Course(), 0, have=0) == 51
    assert table_size(curve, Course(), 0, have=0) == 4096
    assert table_size(curve, Course(), 2_000, have=4096) == 4096, "4,004 entries are enough"
    assert table_size(curve, Course(), 4_000, have=4096) == 10_001
    assert table_size(endless, Course(), 10**6, have=0) >= 4 * 10**6


def test_a_multiplier_on_a_device_is_that_of_the_host_and_follows_a_curve_that_is_redrawn() -> None:
    tables, on_host = MultiplierTables(), track()
    for at in (0, 33, 99, 100, 150):
        value = tables.multiplier(0, 0, on_host, torch.tensor(at), at)
        assert float(value) == pytest.approx(float(tables.multiplier(0, 0, on_host, at, at)))
    longer = track(200)
    assert float(tables.multiplier(0, 0, longer, torch.tensor(100), 100)) == pytest.approx(0.5)
