"""What every run plays of a product has every value of every axis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.covering import Row, cells, chosen, played


def combinations_of(rows: Sequence[Row], together: int) -> set[tuple[tuple[int, int], ...]]:
    """Every combination of so many values of different axes that some row has."""
    return {found for row in rows for found in itertools.combinations(enumerate(row), together)}


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Products of two or three axes with gaps anywhere."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=2, max_size=3))
    rows = list(itertools.product(*(range(size) for size in sizes)))
    present = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    return [row for row, is_there in zip(rows, present, strict=True) if is_there] or rows


@given(tables(), st.integers(1, 9), st.integers(1, 2))
def test_every_value_and_where_it_is_asked_for_every_pair_is_played(
    rows: list[Row], one_in: int, together: int
) -> None:
    selection = chosen(rows, one_in, together=together)
    assert selection <= set(rows)
    assert combinations_of(list(selection), together) == combinations_of(rows, together)
    assert selection == chosen(rows, one_in, together=together), "every run plays the same"


@pytest.mark.parametrize(("sizes", "one_in"), [((21, 18), 3), ((6, 30), 3), ((5, 10), 2), ((11, 2), 2)])
def test_of_a_whole_table_the_diagonals_alone_are_played(sizes: tuple[int, int], one_in: int) -> None:
    rows = list(itertools.product(*(range(size) for size in sizes)))
    assert chosen(rows, one_in) == {row for row in rows if sum(row) % one_in == 0}


def test_one_in_one_is_the_whole_table() -> None:
    rows = list(itertools.product(range(3), range(4)))
    assert chosen(rows, 1) == set(rows)


def test_cells_are_the_whole_product_and_the_others_are_slow() -> None:
    made = cells("abc", [1, 2, 3], one_in=3, where=lambda a, b: (a, b) != ("c", 3), name=lambda a, b: f"{a}{b}")
    assert [cell.id for cell in made] == ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2"]
    assert played(made) == [("a", 1), ("b", 3), ("c", 2)]
    assert all(
        [mark.name for mark in cell.marks] == ["slow"] for cell in made if tuple(cell.values) not in played(made)
    )


def test_what_is_asked_for_by_name_is_played_in_every_run() -> None:
    made = cells("abc", [1, 2, 3], one_in=3, always=lambda a, b: (a, b) == ("b", 1))
    assert ("b", 1) in played(made) and len(played(made)) == 4
