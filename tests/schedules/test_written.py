from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_tricks import LRSchedule
from lightning_tricks.schedules.course import Course
from lightning_tricks.schedules.groups import GroupPlan, KnownGroup
from lightning_tricks.schedules.plan import Track, whole_curve
from lightning_tricks.schedules.position import Position
from lightning_tricks.schedules.written import logged_values, momentum_at, shown_groups, weight_decay_at, write_groups


def write(
    groups: list[dict[str, Any]], known: list[KnownGroup], at: float, factor: float = 1.0, **arguments: Any
) -> None:
    spec = LRSchedule("linear", warmup=0, **arguments).spec
    track = Track(Course(), (whole_curve(spec, 10),))
    write_groups(
        spec, groups, known, track, Position(at, at), factor=factor, multiplier=lambda n: track.curves[n].value(at)
    )


def test_a_rate_is_base_times_override_times_request_times_curve() -> None:
    groups: list[dict[str, Any]] = [{"lr": 9.0}, {"lr": torch.tensor(9.0)}]
    tensor = groups[1]["lr"]
    known = [KnownGroup((), 0.5, 0.0), KnownGroup((), 0.2, 0.0, GroupPlan(factor=0.1))]
    write(groups, known, 5.0, factor=2.0)
    assert groups[0]["lr"] == pytest.approx(0.5 * 2.0 * 0.5)
    assert groups[1]["lr"] is tensor and float(tensor) == pytest.approx(0.2 * 0.1 * 2.0 * 0.5), "written in place"
    assert [k.written is g["lr"] for k, g in zip(known, groups, strict=True)] == [True, True]


@pytest.mark.parametrize("group", [{"lr": 1.0, "momentum": 0.0}, {"lr": 1.0, "betas": (0.0, 0.999)}])
def test_momentum_falls_where_the_rate_rises_for_either_kind_of_optimizer(group: dict[str, Any]) -> None:
    for at, expected in ((0.0, 0.85), (5.0, 0.90), (10.0, 0.95)):
        write([group], [KnownGroup((), 1.0, 0.0)], at, momentum=(0.95, 0.85))
        assert group.get("momentum", group.get("betas", (0,))[0]) == pytest.approx(expected)
    assert group.get("betas", (0, 0.999))[1] == 0.999


def test_weight_decay_follows_half_a_cosine_and_groups_without_keep_none() -> None:
    groups: list[dict[str, Any]] = [{"lr": 1.0, "weight_decay": 0.1}, {"lr": 1.0, "weight_decay": 0.0}]
    known = [KnownGroup((), 1.0, 0.1), KnownGroup((), 1.0, 0.0)]
    for at in range(13):
        write(groups, known, at, weight_decay_final=0.3)
        expected = 0.3 - 0.2 * (1 + math.cos(math.pi * min(1.0, at / 10))) / 2
        assert groups[0]["weight_decay"] == pytest.approx(expected) and groups[1]["weight_decay"] == 0.0


def test_both_courses_hit_their_ends() -> None:
    assert momentum_at((0.9, 0.8), 0.25) == pytest.approx(0.875)
    assert weight_decay_at(0.1, 0.5, 0.0) == pytest.approx(0.1) and weight_decay_at(0.1, 0.5, 1.0) == pytest.approx(0.5)


def test_what_is_logged_names_the_optimizer_and_the_groups_behind_it() -> None:
    spec = LRSchedule(momentum=(0.95, 0.85), weight_decay_final=0.1).spec
    groups = [{"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.2}]
    assert logged_values(spec, groups, "/optimizer1") == {
        "schedule/lr/optimizer1": 0.1,
        "schedule/momentum/optimizer1": 0.9,
        "schedule/weight_decay/optimizer1": 0.2,
    }
    assert set(logged_values(LRSchedule().spec, [*groups, {"lr": 1.0, "name": "head"}], "")) == {
        "schedule/lr",
        "schedule/lr/group0",
        "schedule/lr/head",
    }


def test_of_many_groups_few_rates_are_logged_and_the_ends_are_among_them() -> None:
    groups = [{"lr": 0.1 * 0.9**i} for i in range(57)]
    keys = list(logged_values(LRSchedule().spec, groups, ""))
    assert keys[0] == "schedule/lr" and len(keys) == 6
    assert keys[1] == "schedule/lr/group0" and keys[-1] == "schedule/lr/group56"
    for number in range(2, 200):
        shown = shown_groups(number)
        assert len(set(shown)) == min(number, 5) and shown == sorted(shown) and (shown[0], shown[-1]) == (0, number - 1)
