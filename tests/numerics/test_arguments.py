from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

import numpy as np
import pytest

import lightning_tricks
from lightning_tricks import GradientAccumulation, LRFinder, LRSchedule, Rollback, TrickWarning
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form
from lightning_tricks.numerics.arguments import changed_arguments, constructor_arguments, holds_arguments, plain
from tests.matrix import EXAMPLES

CALLBACKS = [n for n in lightning_tricks.__all__ if issubclass(type(k := getattr(lightning_tricks, n)), type)
             and issubclass(k, Trick)]  # fmt: skip


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


class Colour(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ("a", "a"),
        (Colour.RED, "red"),
        (np.float64(0.5), 0.5),
        (["a", (1, 2)], ["a", [1, 2]]),
        ({"a": {1: 2.0}}, {"a": {"1": 2.0}}),
        (len, "len"),
        (Rollback(), "Rollback(keep=3, lr_factor=0.2, accumulate_factor=8, max_times=3)"),
    ],
)
def test_arguments_become_plain_values_that_any_checkpoint_may_hold(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected and type(found) is type(expected)


def test_objects_are_written_as_they_show_themselves_and_never_with_an_address() -> None:
    class Weigh:
        def __repr__(self) -> str:
            return "Weigh()"

    class Hidden:
        def __call__(self, batch: object) -> int:
            return 1

    class Made:
        def __init__(self, rule: object, sizes: tuple[int, ...], path: object) -> None:
            self.rule, self.sizes, self.path = rule, sizes, path

    assert constructor_arguments(Made(2j, (1, 2), {3: None})) == {"rule": "2j", "sizes": [1, 2], "path": {"3": None}}
    assert plain(Weigh()) == "Weigh()"
    assert "Hidden" in plain(Hidden()) and " at 0x" not in plain(Hidden())
    assert "lambda" in plain(lambda batch: 1) and " at 0x" not in plain(lambda batch: 1)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_has_each_argument_of_its_constructor_as_a_plain_value(name: str) -> None:
    kind: Any = getattr(lightning_tricks, name)
    trick = kind(**EXAMPLES.get(name, {}))
    found = trick.configuration()
    assert list(found) == list(inspect.signature(kind).parameters)
    assert form.dict_of(form.plain)(found, "configuration") is None
    if hasattr(trick, "spec"):
        assert [field.name for field in fields(trick.spec)] == list(inspect.signature(kind).parameters)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_is_not_said_to_differ_from_one_of_the_same_arguments(name: str) -> None:
    kind: Any = getattr(lightning_tricks, name)
    one, two = (kind(**EXAMPLES.get(name, {})) for _ in range(2))
    assert changed_arguments(one, two.configuration()) == {}


def test_arguments_that_differ_are_returned_and_those_that_a_checkpoint_lacks_are_not() -> None:
    assert changed_arguments(Callback(4, len), {"patience": 3, "weight": "len", "gone": 1}) == {"patience": (3, 4)}
    assert changed_arguments(Callback(4), {"weight": "len"}) == {"weight": ("len", None)}


# What 0.1.0 wrote of lists and dicts before all callbacks had one form of their arguments.
TEXTS: list[tuple[Trick, dict[str, Any]]] = [
    (
        LRSchedule("linear", momentum=(0.85, 0.95), total={0: 10, 1: "2ep"}, overrides={"^a": 0.1, "^b": "linear"}),
        {
            "decay": "Linear()",
            "warmup": "5%",
            "hold": "0st",
            "total": "{0: Duration(amount=10.0, unit='st'), 1: Duration(amount=2.0, unit='ep')}",
            "momentum": "(0.95, 0.85)",
            "overrides": "{'^a': 0.1, '^b': Linear()}",
        },
    ),
    (GradientAccumulation({0: 1, 100: 4}, weight=len), {"batches": "{0: 1, 100: 4}", "weight": "len"}),
    (LRFinder(num_steps=20), {"min_lr": 1e-07, "num_steps": 20}),
]


@pytest.mark.parametrize(("trick", "saved"), TEXTS, ids=[type(trick).__name__ for trick, _ in TEXTS])
def test_lists_and_dicts_that_an_earlier_version_wrote_as_text_are_the_same_arguments(
    trick: Trick, saved: dict[str, Any]
) -> None:
    assert changed_arguments(trick, saved) == {}


def test_another_dict_than_the_one_that_was_written_as_text_is_told() -> None:
    clock = {"version": 1, "attempted": [], "applied": []}
    state = {"limit": None, "micro_size": 8.0, "open": None, "rate_factor": 1.0, "reference": 8.0}
    saved = {"version": 1, "configuration": {"batches": "{0: 1, 100: 4}"}, "clock": clock, "state": state}
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        GradientAccumulation({0: 1, 100: 4}).load_state_dict(saved)
    with pytest.warns(TrickWarning, match=r"batches: '\{0: 1, 100: 4\}' -> \{'0': 1, '100': 8\}"):
        GradientAccumulation({0: 1, 100: 8}).load_state_dict(saved)
