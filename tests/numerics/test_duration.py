from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks.numerics.duration import Duration


@pytest.mark.parametrize(
    ("text", "updates"),
    [(500, 500), ("500", 500), ("500st", 500), (" 500 st ", 500), ("2ep", 60), ("0.5ep", 15), ("5%", 50), ("100%", 1000), (0, 0)],
)  # fmt: skip
def test_every_form_is_a_number_of_updates(text: Any, updates: int) -> None:
    assert Duration.parse(text, owner="X", argument="y").updates(total=1000, per_epoch=30) == updates


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(-1, ValueError, ">= 0"), (True, TypeError, "whole number or a string"), (1.5, TypeError, "whole number or a string"),
     ("", ValueError, "no known form"), ("5 epochs", ValueError, "no known form"), ("101%", ValueError, "at most 100%"),
     ("1.5st", ValueError, "whole number of updates"), ("-5%", ValueError, "no known form")],
)  # fmt: skip
def test_other_forms_are_refused_with_the_way_out(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=rf"X\(y=.*{text}.*Use e\.g\. 500"):
        Duration.parse(value, owner="X", argument="y")


def test_a_unit_without_its_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="length of the run is not known"):
        Duration.parse("5%", owner="X", argument="y").updates()
    with pytest.raises(ValueError, match="length of an epoch is not known"):
        Duration.parse("2ep", owner="X", argument="y").updates(total=10)
