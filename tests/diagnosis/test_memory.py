"""Rules of growth: made-up curves of healthy and of leaking trainings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.diagnosis.memory import (
    Growth,
    Moment,
    Prospect,
    growth_of,
    growth_of_memory,
    looks_this_time,
    rate,
    steady,
    survives_epochs,
)
from lightning_tricks.dry_run.holdings import Holding
from tests.laws.strategies import law

MODEL = Prospect(model=1e6, free=1e10, left=1e5, left_in_epoch=10)
MB = 2.0**20


def moments(every: int, epoch: int, count: int) -> list[Moment]:
    """Checks at every so many updates, in epochs of some batches."""
    return [Moment(u, (u - 1) // epoch, (u - 1) % epoch + 1) for u in range(every, every * (count + 1), every)]


def first_batches(epoch: int, updates: int) -> list[Moment]:
    """The first batches of the epochs after the first one, at which a suspect is looked at again."""
    return [Moment(u, (u - 1) // epoch, 1) for u in range(epoch + 1, updates, epoch)]


def history(checks: list[Moment], make: Callable[[Moment], Holding]) -> list[tuple[Moment, Holding]]:
    return [(moment, make(moment)) for moment in checks]


def ever(checks: list[Moment], make: Callable[[Moment], Holding], prospect: Prospect = MODEL) -> Growth | None:
    """The first certain growth in the course of a run; else the last of any kind."""
    whole, last = history(checks, make), None
    for i in range(1, len(whole) + 1):
        found = growth_of(whole[:i], prospect)
        if found is not None and found.certain:
            return found
        last = found or last
    return last


@given(epoch=st.integers(2, 40), every=st.integers(1, 60), per_batch=st.integers(1, 3))
@law(200)
def test_what_is_cleared_in_each_epoch_is_never_an_alarm(epoch: int, every: int, per_batch: int) -> None:
    checks = sorted({*moments(every, epoch, 40), *first_batches(epoch, 40 * every)})
    cleared = lambda m: Holding("module.outputs", per_batch * m.batch, per_batch * m.batch, 9.0 * per_batch * m.batch)  # noqa: E731
    assert ever(checks, cleared, Prospect(1e6, math.inf, 1e5, 10)) is None


@given(epoch=st.integers(2, 40), every=st.integers(1, 60))
@law(100)
def test_what_keeps_graphs_through_epochs_is_found_soon(epoch: int, every: int) -> None:
    checks = sorted({*moments(every, epoch, 120), *first_batches(epoch, 120 * every)})
    kept = lambda m: Holding("module.losses", m.update, m.update, 9.0 * m.update, 1, 4e3 * m.update)  # noqa: E731
    i = next(i for i in range(1, len(checks)) if growth_of(history(checks[:i], kept), MODEL) is not None)
    found = growth_of(history(checks[:i], kept), MODEL)
    assert found is not None and (found.kind, found.certain) == ("graph", True)
    assert found.per_update == pytest.approx(4e3)
    assert i <= 4 or checks[i - 3].update <= 2 * epoch + 1


def test_a_graph_that_grows_is_found_though_the_number_of_tensors_does_not() -> None:
    found = ever(moments(3, 8, 12), lambda m: Holding("module.total", 1, 1, 7.0 * m.update, 1, 3e3 * m.update))
    assert found is not None and found.certain and found.single


def test_a_bounded_queue_that_is_filling_up_is_no_alarm() -> None:
    filling = lambda m: Holding("module.recent", m.update, m.update, 9.0 * m.update, 4, 4e3 * m.update, bounded=True)  # noqa: E731
    assert ever(moments(3, 8, 12), filling) is None


def test_a_cache_that_is_full_after_the_first_epoch_is_no_alarm() -> None:
    full = lambda m: Holding("module.bank", min(m.update, 20), elements=9, nbytes=1e6 * min(m.update, 20), kept=2)  # noqa: E731
    assert ever(moments(3, 20, 40), full) is None


@pytest.mark.parametrize("kind", ["batch", "metric"])
def test_batches_and_states_of_metrics_that_outlive_epochs_are_an_alarm_where_they_are_large(kind: str) -> None:
    def make(size: float) -> Callable[[Moment], Holding]:
        return lambda m: Holding(
            "module.x", m.update, elements=9, nbytes=size * m.update, kept=int(kind == "batch"), metric=kind == "metric"
        )

    large, small = ever(moments(3, 8, 12), make(1e4)), ever(moments(3, 8, 12), make(1e-3))
    assert large is not None and (large.kind, large.certain) == (kind, True)
    assert small is None


def test_a_replay_buffer_is_advice_where_it_is_large_and_an_alarm_where_it_will_fill_the_memory() -> None:
    replay = lambda m: Holding("module.replay", arrays=m.update, nbytes=1e5 * m.update)  # noqa: E731
    advice = ever(moments(3, 8, 12), replay, Prospect(1e6, math.inf, 1e4, 10))
    assert advice is not None and not advice.certain and advice.full_after == math.inf
    alarm = ever(moments(3, 8, 12), replay, Prospect(1e6, 5e8, 1e4, 10))
    assert alarm is not None and alarm.certain and alarm.full_after == pytest.approx(5000.0)


def test_within_an_epoch_graphs_are_an_alarm_where_memory_is_full_before_its_end() -> None:
    kept = lambda m: Holding("module.losses", m.update, m.update, 9.0 * m.update, 1, 1e6 * m.update)  # noqa: E731
    checks = moments(10, 10**6, 8)
    assert ever(checks, kept, Prospect(1e6, 1e9, 1e6, 500)) is None
    soon = ever(checks, kept, Prospect(1e6, 1e9, 1e6, 5000))
    assert soon is not None and soon.certain and soon.full_after == pytest.approx(1000.0)


def test_what_is_still_kept_when_training_has_ended_is_an_alarm_after_one_epoch_too() -> None:
    kept = history(moments(10, 10**6, 6), lambda m: Holding("a", m.update, m.update, 9.0 * m.update, 1, 1e3 * m.update))
    assert growth_of(kept, MODEL) is None
    found = growth_of(kept, MODEL, ended=True)
    assert found is not None and found.certain


def test_hooks_that_pile_up_are_an_alarm_and_those_that_stay_are_none() -> None:
    found = ever(moments(3, 8, 6), lambda m: Holding("module.net._forward_hooks", hooks=m.update))
    assert found is not None and (found.kind, found.certain, found.per_update) == ("hooks", True, 1.0)
    assert ever(moments(3, 8, 6), lambda m: Holding("module.net._forward_hooks", hooks=5)) is None


def curve(*values: float, every: int = 10, epoch: int = 1000) -> list[tuple[Moment, float]]:
    return list(zip(moments(every, epoch, len(values)), values, strict=True))


def test_memory_that_rises_steadily_is_an_alarm_where_it_will_be_full_before_the_end() -> None:
    rising = curve(*(500 * MB + 20 * MB * i for i in range(16)))
    fills, lasts = Prospect(1e8, 1e9, 1e4), Prospect(1e8, 1e12, 1e4)
    alarm, advice = growth_of_memory(rising, fills), growth_of_memory(rising, lasts)
    assert alarm is not None and alarm.certain and alarm.full_after == pytest.approx(1e9 / (2 * MB))
    assert advice is not None and not advice.certain
    unknown = growth_of_memory(rising, Prospect(1e8, 400 * MB))  # three times 160 updates is the horizon then
    assert unknown is not None and unknown.certain


@pytest.mark.parametrize(
    "values",
    [
        [500 * MB + 20 * MB * min(i, 5) for i in range(16)],  # a warm-up
        [500 * MB + 40 * MB * (i % 4) for i in range(16)],  # waits for the garbage collector
        [500 * MB + 0.1 * MB * i for i in range(16)],  # within the noise
        [500 * MB + 20 * MB * i for i in range(6)],  # too few
        [500 * MB + (300 * MB if i >= 12 else 0) for i in range(16)],  # one step: a validation has begun
        [500 * MB + 400 * MB * (1 - 0.6**i) for i in range(16)],  # levels off
    ],
    ids=["warm-up", "sawtooth", "noise", "few", "step", "levels off"],
)
def test_memory_that_has_a_reason_to_rise_is_no_alarm(values: list[float]) -> None:
    found = growth_of_memory(curve(*values), Prospect(1e8, 1e9, 1e4))
    assert found is None or not found.certain


def test_looks_become_rarer_so_that_their_number_is_logarithmic() -> None:
    looks = [check for check in range(1, 10_001) if looks_this_time(check)]
    assert looks[:4] == [1, 2, 3, 4]
    assert len(looks) == 26 and all(b <= 1.5 * a + 1 for a, b in itertools.pairwise(looks))


def test_the_rate_of_one_update_is_no_division_by_zero() -> None:
    moment = Moment(3, 0, 3)
    assert rate([(moment, 1.0), (moment, 2.0)]) == 1.0
    assert not steady([(moment, 1.0)]) and not survives_epochs([(moment, 1.0)])
