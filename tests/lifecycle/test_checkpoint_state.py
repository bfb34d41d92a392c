from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks.lifecycle.checkpoint_state import checked_state, find_older_key, saved_state
from lightning_tricks.numerics import form

CLOCK = {"version": 1, "attempted": [3], "applied": [2]}
FORM = form.record({"n": form.count})


class Owner:
    def __init__(self, a: int = 2, b: str = "x", new: int = 7) -> None:
        self.a, self.b, self.new = a, b, new


def test_what_was_saved_comes_back_with_the_arguments_that_differ() -> None:
    saved = saved_state({"a": 1, "b": "x", "gone": 0}, CLOCK, {"n": 5})
    found = checked_state(Owner(), saved, FORM)
    assert (found.state, found.clock, found.changed) == ({"n": 5}, CLOCK, ["a: 1 -> 2"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, r"version 2\) cannot be read by this version, which reads version 1"),
        ({"version": True}, r"version True\) cannot be read"),
        ({"state": []}, "cannot be read"),
        ({"clock": None}, "cannot be read"),
        ({"clock": {**CLOCK, "applied": [1, 2]}}, "clock must count attempts and updates of the same optimizers"),
        ({"state": {"n": "many"}}, r"state\['n'\]"),
        ({"configuration": {"a": object()}}, "configuration"),
    ],
)
def test_a_state_of_another_form_is_refused_before_it_is_used(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"Owner: the checkpoint's.*{text}"):
        checked_state(Owner(), {**saved_state({}, CLOCK, {"n": 5}), **change}, FORM)


def test_what_is_no_dict_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a dict, not \[1\].*or start from scratch\."):
        checked_state(Owner(), [1], FORM)


def test_an_older_key_is_found_only_where_the_present_one_is_missing() -> None:
    older = "A{'gives_way': True, 'serial': 1}"
    assert find_older_key([older, 3, "B{}"], "A{'gives_way': True}") == older
    assert find_older_key([older, "A{'gives_way': True}"], "A{'gives_way': True}") is None
    assert find_older_key(["B{}"], "A{'gives_way': True}") is None
