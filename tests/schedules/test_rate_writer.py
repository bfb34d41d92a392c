from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks import LRSchedule
from lightning_tricks.lifecycle.horizon import Standing
from lightning_tricks.lifecycle.pace import Pace
from lightning_tricks.optimizer_step.logbook import OptimizerView
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.schedules.forecast import read_forecast
from lightning_tricks.schedules.plan import TICKS, Track, first_tracks
from lightning_tricks.schedules.rate_writer import RateWriter
from tests.schedules.fake_run import fake_run


def set_up(done: int, **arguments: Any) -> tuple[Any, OptimizerView, RateWriter, Track]:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    view = OptimizerView(0, optimizer, {id(p): name for name, p in net.named_parameters()}, LossScale(None))
    run = fake_run(done=done)
    run.views, run.rate = [view], SimpleNamespace(factor=1.0)
    writer = RateWriter(LRSchedule("linear", **{"warmup": 0, **arguments}).spec)
    writer.take_groups(run, view)
    forecast = read_forecast(fake_run(), writer.spec, Pace(), Standing(), has_clock=False)
    track = first_tracks(writer.spec, forecast)[0]
    return run, view, writer, track


@pytest.mark.parametrize(("done", "expected"), [(0, 0.5), (10, 0.375), (40, 0.0)])
def test_the_rate_is_that_of_the_applied_updates(done: int, expected: float) -> None:
    run, view, writer, track = set_up(done)
    writer.write(run, view, track, timed=False, lowered=1.0)
    assert view.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert writer.base_rates(0) == [0.5]


def test_a_plateau_and_another_callback_multiply_the_rate() -> None:
    run, view, writer, track = set_up(20)
    run.rate.factor = 4.0
    writer.write(run, view, track, timed=False, lowered=0.1)
    assert view.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.5 * 4.0 * 0.1)


def test_a_group_that_a_callback_added_is_taken_up_when_the_rates_are_written() -> None:
    run, view, writer, track = set_up(20)
    view.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1})
    writer.write(run, view, track, timed=False, lowered=1.0)
    assert [g["lr"] for g in view.optimizer.param_groups] == pytest.approx([0.25, 0.05])


def test_time_decides_alone_or_hurries_but_not_a_warm_up_in_updates() -> None:
    run, view, writer, track = set_up(4)
    writer.clock.read = lambda: 0.525
    assert writer.position(run, 0, track, timed=True).exact == round(0.525 * TICKS)
    assert writer.position(run, 0, track, timed=False).exact == 20
    run, view, writer, track = set_up(4, warmup=8)
    writer.clock.read = lambda: 0.525
    assert writer.position(run, 0, track, timed=False).exact == 4


@pytest.mark.parametrize(("arguments", "sent"), [({}, 0), ({"momentum": (0.95, 0.85)}, 1)])
def test_the_number_of_skipped_steps_is_sent_only_where_the_host_needs_it(arguments: dict[str, Any], sent: int) -> None:
    run, view, writer, track = set_up(10, **arguments)
    found: list[Any] = []
    run.publisher = SimpleNamespace(put_private=lambda step, values, take: found.append((values, take)))
    run.clock = SimpleNamespace(applied=lambda i: torch.tensor(7), attempted=lambda i: 11)
    page: Any = SimpleNamespace(view=view, step=3)
    writer.send_skipped(run, page)
    assert [values.tolist() for values, _ in found] == [[3]] * sent
    for values, take in found:
        take(values.tolist())
    run.clock.applied = lambda i: torch.tensor(7, device="meta")
    assert writer.position(run, 0, track, timed=False).on_host == (8 if sent else 11)
