from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lightning_tricks import LRSchedule, Plateau
from lightning_tricks.numerics.duration import Duration
from lightning_tricks.schedules.curves import Constant, Cosine, Linear
from lightning_tricks.schedules.spec import ScheduleSpec


def test_every_form_of_an_argument_is_parsed_without_a_trainer() -> None:
    spec = LRSchedule("cosine", warmup="2ep", hold=5, total={0: 100, 2: "3ep"}, momentum=(0.85, 0.95)).spec
    assert spec.decay == Cosine()
    assert spec.warmup == Duration(2, "ep") and spec.hold == Duration(5, "st")
    assert (
        spec.total_of(0) == Duration(100, "st") and spec.total_of(1) is None and spec.total_of(2) == Duration(3, "ep")
    )
    assert spec.momentum == (0.95, 0.85), "the higher momentum belongs to the lowest rate"
    assert LRSchedule(total="4ep").spec.total_of(7) == Duration(4, "ep")


def test_the_default_warm_up_is_five_percent_and_none_where_the_decay_has_its_own() -> None:
    assert LRSchedule().spec.warmup == Duration(5, "%")
    assert LRSchedule("one_cycle").spec.warmup.amount == 0


def test_the_decays_are_that_of_the_schedule_and_then_those_of_the_overrides() -> None:
    spec = LRSchedule("linear", overrides={"a": 0.1, "b": "constant", "c": "cosine"}).spec
    assert spec.decays == [Linear(), Constant(), Cosine()]
    assert spec.plateau is None and LRSchedule(Plateau("x")).spec.plateau == Plateau("x")


def test_a_specification_is_frozen_and_does_not_share_the_users_dict() -> None:
    given: dict[str, Any] = {"a": 0.1}
    spec = LRSchedule(overrides=given).spec
    given["b"] = 0.5
    assert spec.overrides == {"a": 0.1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.final = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"warmup_start": 0, "warmup_shape": "constant"}, r"LRSchedule\(warmup_start=0\): warmup_start must be > 0"),
        ({"decay": "one_cycle", "final": 0.1}, "final has no meaning for OneCycle"),
        ({"decay": "noam", "warmup": 5}, r"LRSchedule\(warmup=5\): Noam has its own warm-up"),
        ({"warmup": 60, "hold": "50%", "total": 100}, "are longer than the run"),
        ({"total": {-1: 5}}, "a dict from the index of an optimizer"),
        ({"total": "10%"}, "total must be a number of updates or epochs"),
        ({"momentum": (0.9,)}, "momentum must be two numbers"),
        ({"weight_decay_final": -1.0}, "weight_decay_final must be >= 0"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments: dict[str, Any], text: str) -> None:
    defaults = {
        "decay": "cosine",
        "warmup": None,
        "warmup_shape": "linear",
        "warmup_start": 0.0,
        "hold": 0,
        "final": 0.0,
        "total": None,
        "momentum": None,
        "weight_decay_final": None,
        "conflict": "error",
        "overrides": None,
    }
    assert ScheduleSpec(**defaults) == LRSchedule().spec  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=text):
        ScheduleSpec(**{**defaults, **arguments})
