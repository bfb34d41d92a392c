from __future__ import annotations

import inspect
from typing import Any

import pytest

import lightning_tricks
from lightning_tricks.lifecycle.configuration import constructor_arguments
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form
from tests.matrix import EXAMPLES

CALLBACKS = [n for n in lightning_tricks.__all__ if issubclass(type(k := getattr(lightning_tricks, n)), type)
             and issubclass(k, Trick)]  # fmt: skip


@pytest.mark.parametrize("name", CALLBACKS)
def test_it_has_each_argument_of_the_constructor_as_a_plain_value(name: str) -> None:
    kind: Any = getattr(lightning_tricks, name)
    found = kind(**EXAMPLES.get(name, {})).configuration()
    assert list(found) == list(inspect.signature(kind).parameters)
    assert form.named(form.plain)(found, "configuration") is None


def test_other_objects_are_written_as_they_show_themselves() -> None:
    class Made:
        def __init__(self, rule: object, sizes: tuple[int, ...], path: object) -> None:
            self.rule, self.sizes, self.path = rule, sizes, path

    assert constructor_arguments(Made(2j, (1, 2), {3: None})) == {"rule": "2j", "sizes": [1, 2], "path": {"3": None}}
