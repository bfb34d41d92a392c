"""Forms of states: what is right passes, and what is wrong is named with its place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_tricks.numerics import form

INSIDE = form.record({"step": form.step, "curve": form.list_of(form.measured), "rate": form.none_or(form.rate)})


def test_a_good_state_has_no_fault() -> None:
    assert INSIDE({"step": -1, "curve": [1.0, math.nan], "rate": None}, "state") is None
    assert INSIDE({"step": 3, "curve": [], "rate": 0.1}, "state") is None


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ([], "state must be a dict, not []"),
        ({"step": 0, "curve": []}, "state['rate'] is missing"),
        ({"step": True, "curve": [], "rate": None}, "state['step'] must be a whole number >= 0, not True"),
        ({"step": 0, "curve": [1, "2"], "rate": None}, "state['curve'][1] must be a number, not '2'"),
        ({"step": 0, "curve": [], "rate": math.inf}, "state['rate'] must be a number >= 0 and <= 1e6, not inf"),
        ({"step": 0, "curve": [], "rate": 1, "x": 1}, "state['x'] is not known"),
        ({"step": torch.ones(2), "curve": [], "rate": 1}, "state['step'] must be a whole number >= 0, not tensor([1., 1.])"),
        ({"step": 0, "curve": [0.5] * 1_000_001, "rate": 1}, "state['curve'] has 1,000,001 entries, and at most 1,000,000 are read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(state: Any, fault: str) -> None:
    assert INSIDE(state, "state") == fault


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (form.count, [0, 7], [-1, 1.0, 2**60, None]),
        (form.number, [0, -1.5], [math.nan, math.inf, True, "1"]),
        (form.positive, [1e-9], [0, -1]),
        (form.least_zero, [0, 0.5], [-0.5, math.nan]),
        (form.factor, [1, 0.2], [0, 1.1]),
        (form.flag, [True], [1, None]),
        (form.text, [""], [b"", 1]),
        (form.tensor, [torch.ones(1)], [1.0]),
        (form.plain, [None, [1, {"a": "b"}]], [torch.ones(1), {1: 2}, object()]),
        (form.one_of("a", "b"), ["a"], ["c", None, torch.ones(3)]),
        (form.list_of(form.count, 2), [[1, 2], (1, 2)], [[1], "12", {1: 2}]),
        (form.dict_of(form.count), [{}, {"a": 1}], [{"a": -1}, {1: 1}, []]),
        (form.anything, [object()], []),
    ],
)
def test_each_form_takes_the_good_and_names_the_bad(check: form.Form, good: list[Any], bad: list[Any]) -> None:
    assert [check(value, "x") for value in good] == [None] * len(good)
    for value in bad:
        assert (check(value, "x") or "").startswith("x"), value
