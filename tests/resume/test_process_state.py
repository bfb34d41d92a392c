from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks.resume import process_state

RANK: dict[str, Any] = {
    "now": {"torch": torch.zeros(2)},
    "generators": {},
    "held": {"module": {"count": 3}},
    "began": {"random": {}, "generators": {}, "workers": [True], "held": {}},
    "batches": float("inf"),
    "seeds": [None, 3],
    "validation": False,
    "in_window": True,
    "gradients": {"w": torch.ones(1)},
}


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != key}


def test_a_state_of_this_form_is_taken_and_so_is_the_older_one_without_what_objects_held() -> None:
    assert process_state.STATE({}, "state") is None
    assert process_state.STATE({"ranks": [RANK, RANK]}, "state") is None
    old = {**without(RANK, "held"), "began": without(RANK["began"], "held")}
    assert process_state.STATE({"ranks": [old, {**old, "began": None}]}, "state") is None


@pytest.mark.parametrize("key", [key for key in RANK if key != "held"])
def test_what_is_missing_is_named(key: str) -> None:
    fault = process_state.STATE({"ranks": [RANK, without(RANK, key)]}, "state")
    assert fault == f"state['ranks'][1]['{key}'] is missing"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"held": {"module": 3}}, r"['held']['module'] must be a dict"),
        ({"gradients": {"w": 1}}, "must be a tensor"),
        ({"seeds": [1.5]}, "['seeds'][0] must be a whole number"),
        ({"began": {**RANK["began"], "workers": [0]}}, "must be True or False"),
    ],
    ids=str,
)
def test_what_is_of_another_form_is_named(wrong: dict[str, Any], words: str) -> None:
    assert words in str(process_state.STATE({"ranks": [{**RANK, **wrong}]}, "state"))


def test_the_first_process_may_stand_for_others_that_differ_in_parts() -> None:
    state = {"ranks": [RANK], "others": [{}, {"gone": [["held"]], "changed": [[[["seeds"]], [None, 4]]]}]}
    assert process_state.STATE(state, "state") is None
    assert process_state.num_processes(state) == 3
    assert process_state.of_rank(state, 1)["seeds"] == process_state.of_rank(state, 0)["seeds"] == [None, 3]
    assert process_state.of_rank(state, 2)["seeds"] == [None, 4]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ranks": [RANK, RANK], "others": [{}]}, "['ranks'] must be a list of 1 beside 'others', not of 2"),
        ({"ranks": [RANK], "others": [3]}, "['others'][0] must be a dict"),
        ({"ranks": [RANK], "others": [{"gone": [[1]]}]}, "['gone'][0][0] must be a string"),
        ({"ranks": [RANK], "others": [{"changed": [[1]]}]}, "['changed'][0] must be a list of 2"),
        ({"ranks": [RANK], "others": [{}, {"changed": [[[[]], 1]]}]}, "['others'][1] cannot be put together with"),
        ({"ranks": [RANK], "others": [{"changed": [[[["now", "torch", "x"]], 1]]}]}, "cannot be put together with"),
        ({"ranks": [RANK], "others": [{"changed": [[3, 1]]}]}, "cannot be put together with"),
        ({"ranks": [RANK], "others": [{"gone": [["seeds"]]}]}, "['others'][0]['seeds'] is missing"),
        ({"ranks": [RANK], "others": [{"changed": [[[["validation"]], 3]]}]}, "['validation'] must be True or False"),
    ],
    ids=str,
)
def test_differences_that_make_no_state_are_named(wrong: dict[str, Any], words: str) -> None:
    assert words in str(process_state.STATE(wrong, "state"))


def test_differences_to_the_run_that_saved_it_are_told() -> None:
    assert process_state.other_world(2, 1) == (
        "the checkpoint is of 2 processes, this run has 1: its data and random numbers cannot be the same. It goes on "
        "with other ones."
    )
    assert str(process_state.other_epoch(10.0, 12)).startswith("an epoch had 10 batches and has 12 now")
    assert process_state.other_epoch(float("inf"), float("inf")) is None
    assert "holds no gradients" in str(process_state.lost_gradients({"in_window": True, "gradients": {}}))
    assert process_state.lost_gradients(RANK) is None
