from __future__ import annotations

from itertools import pairwise

import pytest

from lightning_tricks.gradients.layer_history import LayerHistory


def filled(steps: int) -> LayerHistory:
    history = LayerHistory()
    for step in range(steps):
        history = history.after(["a", "b"], step, [float(step), 1.0])
    return history


@pytest.mark.parametrize("steps", [1, 256, 257, 1000, 5000])
def test_columns_are_bounded_evenly_spaced_and_reach_from_the_first_step_to_about_the_last(steps: int) -> None:
    history = filled(steps)
    found = [step for step, _ in history.columns]
    assert len(found) <= 256 and found[0] == 0 and steps - found[-1] <= history.every
    assert {b - a for a, b in pairwise(found)} <= {history.every}
    assert all(norms == [float(step), 1.0] for step, norms in history.columns)


def test_other_parameters_start_from_scratch() -> None:
    history = filled(1000).after(["a", "b", "c"], 1000, [1.0, 2.0, 3.0])
    assert (history.names, history.columns, history.every) == (("a", "b", "c"), ((1000, [1.0, 2.0, 3.0]),), 1)


def test_a_history_is_a_value() -> None:
    before = filled(10)
    before.after(["a", "b"], 10, [0.0, 0.0])
    assert before == filled(10)
