"""What several parts measure at a check, as one vector; its layout is kept on the host until the vector has arrived."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor


class Slices(NamedTuple):
    """What one part measured at a check.

    Args:
        shared: vectors on the device of equal length on all processes, to be averaged over these.
        apart: vectors on the device of this process only, of any length.
        known: numbers that the host knows already.
    """

    shared: tuple[Tensor, ...] = ()
    apart: tuple[Tensor, ...] = ()
    known: tuple[float, ...] = ()


class Numbers(NamedTuple):
    """The same on the host."""

    shared: tuple[list[float], ...] = ()
    apart: tuple[list[float], ...] = ()
    known: tuple[float, ...] = ()


class Layout(NamedTuple):
    """How long the vectors of each part are, and what needs no vector."""

    shared: tuple[tuple[int, ...], ...]
    apart: tuple[tuple[int, ...], ...]
    known: tuple[tuple[float, ...], ...]


def layout_of(measured: Sequence[Slices]) -> Layout:
    """Return the layout of what several parts measured.

    >>> layout_of([Slices((torch.zeros(2),), known=(0.5,)), Slices(apart=(torch.zeros(1), torch.zeros(0)))])
    Layout(shared=((2,), ()), apart=((), (1, 0)), known=((0.5,), ()))
    """
    return Layout(
        tuple(tuple(map(len, slices.shared)) for slices in measured),
        tuple(tuple(map(len, slices.apart)) for slices in measured),
        tuple(slices.known for slices in measured),
    )


def shared_vector(measured: Iterable[Slices]) -> Tensor:
    """Return what is to be averaged over processes as one vector."""
    return torch.cat([vector for slices in measured for vector in slices.shared])


def with_those_apart(shared: Tensor, measured: Iterable[Slices]) -> Tensor:
    """Return the whole vector: what is averaged, and after it what every process has for itself."""
    return torch.cat([shared, *(vector for slices in measured for vector in slices.apart)])


def numbers_of(layout: Layout, vector: Iterable[float]) -> list[Numbers]:
    """Return the numbers of each part from the whole vector.

    >>> layout = layout_of([Slices((torch.zeros(2),), known=(0.5,)), Slices(apart=(torch.zeros(1), torch.zeros(0)))])
    >>> for numbers in numbers_of(layout, [1.0, 2.0, 3.0]):
    ...     print(numbers)
    Numbers(shared=([1.0, 2.0],), apart=(), known=(0.5,))
    Numbers(shared=(), apart=([3.0], []), known=())
    """
    rest = iter(vector)
    shared = [_next(rest, counts) for counts in layout.shared]
    apart = [_next(rest, counts) for counts in layout.apart]
    return [Numbers(*row) for row in zip(shared, apart, layout.known, strict=True)]


def _next(numbers: Iterator[float], counts: Iterable[int]) -> tuple[list[float], ...]:
    return tuple(list(islice(numbers, count)) for count in counts)
