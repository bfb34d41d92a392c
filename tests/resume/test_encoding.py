from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from lightning_tricks.numerics.state import same_shape
from lightning_tricks.resume.encoding import (
    MOST_ITEMS,
    NotPlainError,
    decoded,
    encoded,
    filled,
    is_numeric,
    without_references,
)

VALUES = [
    1, True, None, "a", b"a", 1j, [1, [2]], (1, "b"), {1, 2}, frozenset("a"), {1: (2,), "a": None}, deque([1, 2], 3),
    deque([1]), torch.arange(3), torch.ones(2, dtype=torch.bfloat16), numpy.arange(6.0).reshape(2, 3), numpy.array(True),
]  # fmt: skip


def alike(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, numpy.ndarray):
        return bool(one.dtype == two.dtype and numpy.array_equal(one, two))
    maxlen = (one.maxlen, two.maxlen) if isinstance(one, deque) else (0, 0)
    return bool(type(one) is type(two) and one == two and maxlen[0] == maxlen[1])


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_comes_back_from_a_file_that_is_loaded_with_weights_only(value: Any, tmp_path: Path) -> None:
    torch.save(encoded(value, [MOST_ITEMS]), tmp_path / "a.pt")
    assert alike(value, decoded(torch.load(tmp_path / "a.pt", weights_only=True)))


@pytest.mark.parametrize(
    "value",
    [object(), [object()], {"a": lambda: 1}, numpy.array(["a"]), torch.ones(1, device="meta"), list(range(11))],
    ids=lambda v: type(v).__name__,
)
def test_what_cannot_be_written_or_is_too_much_is_refused(value: Any) -> None:
    with pytest.raises(NotPlainError):
        encoded(value, [10])


def test_a_large_array_of_a_data_set_is_compared_by_a_digest_and_copied_only_when_it_is_saved() -> None:
    array = numpy.zeros(20_000)
    spare = [2**20]
    before = encoded(array, [10], spare)
    assert spare == [2**20 - array.nbytes]
    assert before == encoded(array, [10], [2**20])
    array[7] = 1.0
    after = encoded(array, [10], [2**20])
    assert before != after
    assert alike(decoded(without_references([after]))[0], array)
    with pytest.raises(NotPlainError):
        encoded(array, [10], [1000])


def test_a_copy_is_no_view() -> None:
    tensor, array = torch.zeros(2), numpy.zeros(2)
    kept = encoded([tensor, array], [10])
    tensor.fill_(1)
    array.fill(1)
    assert decoded(kept)[0].tolist() == decoded(kept)[1].tolist() == [0.0, 0.0]
    assert [is_numeric(value) for value in [*kept, 1, encoded((1,), [9])]] == [True, True, False, False]


@pytest.mark.parametrize(
    ("there", "value", "wanted"),
    [
        ([1], [2, 3], True),
        ({"a": 1}, {"b": 2}, True),
        ({1}, {2}, True),
        (deque([1], 2), deque([3], 2), True),
        (deque([1], 2), deque([3], 4), False),
        (torch.zeros(2), torch.ones(2), True),
        (torch.zeros(2), torch.ones(3), False),
        (numpy.zeros(2), numpy.ones(2), True),
        (numpy.zeros(2), numpy.ones(2, dtype="f4"), False),
        (1, 2, False),
    ],
    ids=str,
)
def test_what_is_there_is_filled_where_it_can_be(there: Any, value: Any, wanted: bool) -> None:
    assert filled(there, value) is wanted
    assert alike(there, value) is wanted


def test_the_kinds_of_a_state_stay_those_of_the_rule() -> None:
    state = {"mean": torch.ones(2), "count": 3}
    assert same_shape(decoded(encoded(state, [10])), state)
