from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.accumulation.open_window import OPEN_WINDOW, MicroBatch, OpenWindow, Units

SIZES = st.lists(st.integers(0, 64), min_size=1, max_size=8)


@given(SIZES, st.lists(st.floats(-10, 10), min_size=8, max_size=8), st.integers(1, 10), st.floats(0.5, 100))
def test_the_corrected_sum_is_the_weighted_mean_whatever_was_planned(
    sizes: list[int], gradients: list[float], planned: int, reference: float
) -> None:
    window, accumulated = OpenWindow(planned=planned), 0.0
    for size, gradient in zip(sizes, gradients, strict=False):
        micro_batch = MicroBatch(size, size, 0.0)
        window = window.joined_by(micro_batch).after_backward(micro_batch)
        accumulated += gradient * window.loss_factor(size, reference)
    assert window.batches == window.backwards == len(sizes) and window.samples == sum(sizes)
    expected = sum(g * n for g, n in zip(gradients, sizes, strict=False)) / (sum(sizes) or 1)
    assert accumulated * window.correction(reference) == pytest.approx(expected, abs=1e-9)


@given(SIZES, SIZES)
def test_on_several_processes_it_is_the_mean_over_all_of_them(one: list[int], two: list[int]) -> None:
    """Each rank's gradient of a sample is its rank; DDP divides the sum of the ranks by their number."""
    reduced, whole = 0.0, sum(one) + sum(two)
    for rank, sizes in enumerate((one, two)):
        window = OpenWindow(planned=4)
        reduced += sum(rank * window.loss_factor(size, 8.0) for size in sizes) / 2
    correction = OpenWindow(planned=4).correction(8.0, world=2, weight=torch.tensor(float(whole)))
    assert float(reduced * correction) == pytest.approx(sum(two) / whole if whole else 0.0, rel=1e-5)


def test_equal_full_windows_need_no_correction() -> None:
    window = OpenWindow(planned=3)
    for _ in range(3):
        window = window.after_backward(MicroBatch(8, 8, 0.0))
    assert window.correction(8.0) == 1.0 and window.loss_factor(8, 8.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize("weight", [0, torch.tensor(0), torch.tensor(0.0)])
def test_a_window_in_which_nothing_counted_is_left_as_it_is(weight: int | torch.Tensor) -> None:
    assert float(OpenWindow(planned=3, weight=weight).correction(8.0)) == 1.0


def test_cleared_gradients_count_for_nothing_but_the_window_does_not_begin_again() -> None:
    window = OpenWindow(planned=3).joined_by(MicroBatch(8, 8, 16.0)).after_backward(MicroBatch(8, 8, 16.0))
    cleared = window.cleared()
    assert (cleared.backwards, cleared.weight, cleared.samples) == (0, 0, 0.0)
    assert (cleared.batches, cleared.size, cleared.planned) == (1, 16.0, 3)


def test_the_unit_is_the_first_weight_and_1_where_that_says_nothing() -> None:
    assert Units().taken_from(8.0, 0.0, 4) == Units(8.0, 32.0)
    assert Units().taken_from(8.0, 30.0, 4) == Units(8.0, 30.0), "ragged over the processes"
    assert Units().taken_from(0.0, 0.0, 2) == Units(1.0, 2.0)
    assert Units(8.0, 8.0).known() == 8.0


def test_a_window_survives_a_checkpoint_with_weights_of_a_device() -> None:
    window = OpenWindow(3, 2, 16.0, 2, torch.tensor(11), torch.tensor(12.0))
    state = window.state_dict()
    assert OPEN_WINDOW(state, "open") is None
    assert OpenWindow.from_state(state) == OpenWindow(3, 2, 16.0, 2, 11.0, 12.0)
    fault = OPEN_WINDOW({**state, "weight": math.nan}, "open")
    assert fault is not None and "open['weight']" in fault
