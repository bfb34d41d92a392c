from __future__ import annotations

import inspect
from dataclasses import dataclass, fields

import pytest

from lightning_tricks import GradientAccumulation, LRFinder, LRSchedule
from lightning_tricks.numerics.arguments import holds_arguments, plain_arguments


@dataclass(frozen=True)
class Spec:
    patience: int
    weight: object


@holds_arguments(Spec)
class Callback:
    def __init__(self, patience: int = 3, weight: object = None) -> None:
        self.spec = Spec(patience, weight)


def test_an_argument_is_read_by_its_name_and_cannot_be_changed() -> None:
    callback = Callback(5)
    assert callback.patience == 5  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        callback.patience = 6  # type: ignore[attr-defined]


def test_plain_values_stay_and_functions_are_told_by_name_without_an_address() -> None:
    class Weigh:
        def __repr__(self) -> str:
            return "Weigh()"

    for value, plain in [(1, 1), (0.5, 0.5), (True, True), (None, None), ("a", "a"), ((1, 2), "(1, 2)")]:
        assert plain_arguments(Spec(1, value)) == {"patience": 1, "weight": plain}
    assert plain_arguments(Spec(1, len))["weight"] == "len"
    assert plain_arguments(Spec(1, Spec))["weight"] == "Spec"
    assert plain_arguments(Spec(1, Weigh()))["weight"] == "Weigh()"
    named = plain_arguments(Spec(1, lambda batch: 1))["weight"]
    assert isinstance(named, str) and "lambda" in named and " at 0x" not in named


@pytest.mark.parametrize("cls", [LRSchedule, GradientAccumulation, LRFinder])
def test_the_configuration_has_every_argument_of_the_constructor_and_no_other(cls: type) -> None:
    trick = cls()
    assert list(trick.configuration()) == list(inspect.signature(cls).parameters)
    assert [field.name for field in fields(trick.spec)] == list(inspect.signature(cls).parameters)
