from __future__ import annotations

import random

import pytest

from lightning_tricks.publishing.worst_series import STATE_FORM, WorstSeries

NAMES = [f"layer{i}" for i in range(20)]


def test_the_first_values_choose_the_five_largest() -> None:
    worst = WorstSeries().after(NAMES, list(range(20)))
    assert set(worst.shown) == {f"layer{i}" for i in range(15, 20)}


def test_noise_changes_no_choice() -> None:
    """Values that differ by a factor of 1.5 from step to step change places often; the curves keep their names."""
    draw = random.Random(0)
    worst = WorstSeries().after(NAMES, [1.0] * 20)
    first = worst.shown
    for _ in range(500):
        worst = worst.after(NAMES, [draw.uniform(0.7, 1.4) for _ in NAMES])
    assert worst.shown == first


def test_a_series_that_becomes_clearly_worse_takes_a_place() -> None:
    worst = WorstSeries().after(NAMES, list(range(20)))
    for _ in range(50):
        worst = worst.after(NAMES, [1000.0, *range(1, 20)])
    assert "layer0" in worst.shown and "layer15" not in worst.shown and len(worst.shown) == 5
    assert worst.means["layer0"] == pytest.approx(1000 * (1 - 0.9**50))


def test_no_more_series_are_ever_shown_than_the_spare_ones_allow() -> None:
    draw, worst = random.Random(0), WorstSeries()
    for _ in range(1000):
        worst = worst.after(NAMES, [10 ** draw.uniform(-6, 6) for _ in NAMES])
    assert len(worst.known) == 7 and len(worst.shown) == 5 and set(worst.shown) <= set(worst.known)


def test_values_that_are_not_finite_leave_the_mean_as_it_was() -> None:
    worst = WorstSeries(most=1).after(["a", "b"], [float("nan"), 2.0]).after(["a", "b"], [3.0, float("inf")])
    assert worst.means == {"a": pytest.approx(0.3), "b": 2.0}
    assert worst.shown == ("b",)


def test_series_that_are_gone_make_room() -> None:
    worst = WorstSeries(most=2, spare=0).after(["a", "b", "c"], [3.0, 2.0, 1.0]).after(["b", "c"], [2.0, 1.0])
    assert worst.shown == worst.known == ("b", "c")


def test_a_restored_choice_goes_on_as_the_one_that_was_saved() -> None:
    draw, worst = random.Random(1), WorstSeries()
    rows = [[10 ** draw.uniform(-2, 2) for _ in NAMES] for _ in range(20)]
    for row in rows[:10]:
        worst = worst.after(NAMES, row)
    state = worst.state()
    assert STATE_FORM(state, "layers") is None
    resumed = WorstSeries().restored(state)
    for row in rows[10:]:
        worst, resumed = worst.after(NAMES, row), resumed.after(NAMES, row)
    assert resumed == worst


def test_optimizers_share_the_places() -> None:
    assert [WorstSeries.of_share(n).most for n in (1, 2, 3, 7)] == [5, 2, 1, 1]
    assert [WorstSeries.of_share(n).spare for n in (1, 2, 3, 7)] == [2, 1, 1, 1]
