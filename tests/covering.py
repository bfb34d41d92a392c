"""A fixed part of a product of axes for every run of the suite; ``--slow`` plays the whole product.

A test of every value of one axis with every value of another grows with both. What breaks is nearly always one value of
one axis, or one pair that is known by then. So each run plays every value of every axis at least once, along the
diagonals of the table, and what is asked for by name; the other cells have the marker ``slow``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

Row = tuple[int, ...]


def chosen(rows: Sequence[Row], one_in: int, *, together: int = 1) -> set[Row]:
    """Return the rows of indices that every run plays.

    Args:
        rows: The cells of the table, each with its index on every axis.
        one_in: One of so many cells lies on a diagonal that is played.
        together: How many axes at a time are covered: 1 plays every value, 2 every pair of values of any two axes.
    """
    played = {row for row in rows if sum(row) % one_in == 0}
    for axes in itertools.combinations(range(len(rows[0])), together):
        seen = {tuple(row[axis] for axis in axes) for row in played}
        for row in rows:  # a table with gaps can lack a diagonal in one of its columns
            values = tuple(row[axis] for axis in axes)
            if values not in seen:
                seen.add(values)
                played.add(row)
    return played


def cells(
    *axes: Sequence[Any],
    one_in: int,
    together: int = 1,
    where: Callable[..., bool] = lambda *values: True,
    always: Callable[..., bool] = lambda *values: False,
    name: Callable[..., str] | None = None,
) -> list[Any]:
    """Return every cell of a product as a parameter of a test; what waits for ``--slow`` has that marker.

    Args:
        axes: The values of each axis.
        one_in, together: As of ``chosen``.
        where: Takes the values of a cell; whether the table has it.
        always: Takes the values of a cell; whether every run plays it, as one that has failed before.
        name: Takes the values of a cell; its id.
    """
    table = {
        row: values
        for row, values in zip(
            itertools.product(*(range(len(axis)) for axis in axes)), itertools.product(*axes), strict=True
        )
        if where(*values)
    }
    played = chosen(list(table), one_in, together=together)
    return [
        pytest.param(
            *values,
            id=name(*values) if name is not None else None,
            marks=[] if row in played or always(*values) else [pytest.mark.slow],
        )
        for row, values in table.items()
    ]


def played(parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the values of the cells that do not wait for ``--slow``."""
    return [tuple(parameter.values) for parameter in parameters if not parameter.marks]
