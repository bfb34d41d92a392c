from __future__ import annotations

import types
from collections import OrderedDict, deque
from typing import Any

import pytest

from lightning_tricks.dry_run.attributes import SAMPLED, attributes_of, base_of, some_items


def test_a_value_has_no_attributes() -> None:
    assert attributes_of(3) is None


@pytest.mark.parametrize("make", [list, tuple, deque, set, lambda n: dict(zip(n, n, strict=True)), frozenset])
@pytest.mark.parametrize("size", [0, 1, SAMPLED, SAMPLED + 1, 10_000])
def test_of_a_large_container_the_newest_items_and_some_of_the_others_are_read(make: Any, size: int) -> None:
    container = make(range(size))
    items = [value for _, value in some_items(base_of(type(container)), container)]
    assert len(items) == len(set(items)) <= SAMPLED
    if size <= SAMPLED:
        assert len(items) == size
    elif not isinstance(container, (set, frozenset)):  # (which have no order)
        assert len(items) == SAMPLED and set(range(max(0, size - 32), size)) <= set(items)


def test_what_a_subclass_overrides_is_not_called() -> None:
    class Loud(OrderedDict[str, int]):
        def items(self) -> Any:
            raise AssertionError

    assert some_items(base_of(Loud), Loud(a=1)) == [("['a']", 1)]
    assert base_of(types.MappingProxyType) is types.MappingProxyType
