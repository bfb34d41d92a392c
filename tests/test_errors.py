from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_tricks import ConflictError, NonFiniteError, TrickError, UnsupportedError
from lightning_tricks.errors import (
    is_list,
    message,
    nearest,
    require_choice,
    require_count,
    require_flag,
    require_number,
)


def test_all_errors_are_runtime_errors_of_one_family() -> None:
    for error in (ConflictError, NonFiniteError, UnsupportedError):
        assert issubclass(error, TrickError)
    assert issubclass(TrickError, RuntimeError)


def test_a_message_says_where_which_value_which_rule_and_what_to_do() -> None:
    assert message("A", "b", "c", "b must be d.", "Use d.") == "A(b='c'): b must be d. Use d."


@pytest.mark.parametrize("value", [0.0, -1, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"A\(b=.*b must be > 0 and finite\. Use 1"):
        require_number("A", "b", value, remedy="Use 1")


@pytest.mark.parametrize("value", ["1", True, None, [1]])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="and a number"):
        require_number("A", "b", value, remedy="Use 1")


def test_bounds_may_belong() -> None:
    assert require_number("A", "b", 0, low_included=True, remedy="") == 0.0
    assert require_number("A", "b", 1.0, high=1.0, high_included=True, remedy="") == 1.0
    with pytest.raises(ValueError, match="< 1"):
        require_number("A", "b", 1.0, high=1.0, remedy="Use less")


def test_counts_flags_and_choices() -> None:
    with pytest.raises(ValueError, match="whole number >= 2"):
        require_count("A", "b", 1, low=2, remedy="Use 2")
    for value in (True, 1.0, "1"):
        with pytest.raises(TypeError, match="whole number"):
            require_count("A", "b", value, remedy="Use 2")
    with pytest.raises(TypeError, match="True or False"):
        require_flag("A", "b", 1)
    with pytest.raises(ValueError, match=r"must be one of model, layer\. Did you mean 'layer'\?"):
        require_choice("A", "b", "layers", ["model", "layer"])
    with pytest.raises(ValueError, match="Use one of these"):
        require_choice("A", "b", 7, ["model", "layer"])


def test_the_nearest_name_is_found_or_none() -> None:
    assert nearest("haed", ["head", "body"]) == "head"
    assert nearest("zzz", ["head", "body"]) is None


def test_what_stands_for_a_list_is_one_and_a_string_is_not() -> None:
    class Config(Sequence[str]):
        """As OmegaConf's lists are."""

        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: Any) -> Any:
            return ["head"][i]

    assert all(is_list(value) for value in ([], (), Config()))
    assert not any(is_list(value) for value in ("head", b"head", {"head"}, {"head": 1}, None, 1))
