from __future__ import annotations

import copy
import random
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.dry_run.states import equal_states
from lightning_tricks.resume.differences import difference, digest, digests, leaves, merged
from lightning_tricks.resume.state import random_state
from tests.laws.strategies import law

PLAIN = st.one_of(
    st.integers(0, 3), st.floats(allow_nan=True), st.sampled_from(["", "a", "1"]), st.none(), st.booleans()
)
NESTED = st.recursive(
    st.one_of(PLAIN, st.lists(PLAIN, max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
STATES = st.dictionaries(st.sampled_from("abc"), NESTED, max_size=3)


@law(100)
@given(STATES, STATES)
def test_a_state_is_the_first_one_with_its_differences(first: dict[str, Any], other: dict[str, Any]) -> None:
    assert repr(sorted(leaves(merged(first, difference(digests(first), other))).items(), key=repr)) == repr(
        sorted(leaves(other).items(), key=repr)
    )


def test_the_random_states_of_two_seeds_come_back_bit_for_bit_and_equal_ones_take_nothing() -> None:
    def seeded(seed: int) -> dict[str, Any]:
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        return {"now": random_state(), "began": {"random": random_state()}, "batches": 3.0}

    first, alike, other = seeded(1), seeded(1), seeded(2)
    assert difference(digests(first), alike) == {}
    found = difference(digests(first), other)
    assert len(found["changed"]) == 3, "what stands in two places is written once"
    assert equal_states(merged(first, found), other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (1, True),
        ([1, 2], [12]),
        ([1], (1,)),
        ("1", 1),
        ({"a": None}, {}),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(1), -torch.zeros(1)),
        (torch.zeros((), dtype=torch.bfloat16), torch.ones((), dtype=torch.bfloat16)),
        ([torch.tensor([True])], [torch.tensor([False])]),
    ],
    ids=repr,
)
def test_values_that_differ_have_other_digests(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)
    assert digest(one) == digest(copy.deepcopy(one))


def test_a_state_that_was_put_together_can_be_changed_without_changing_the_first_one() -> None:
    first: dict[str, Any] = {"a": {"b": 1}, "c": {}}
    found = merged(first, {})
    found["a"]["b"], found["c"]["new"] = 2, 3
    assert first == {"a": {"b": 1}, "c": {}}
