"""What in a configuration of a Trainer cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks import GradientClip, GradientMonitor, LRSchedule
from lightning_tricks.config_check import check
from lightning_tricks.trainer_check import conflicts, trainer_faults


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"max_epochs": "ten"}, ["max_epochs: 'ten' is not a whole number or null."]),
        ({"max_epochs": 2.5}, ["max_epochs: 2.5 is not a whole number or null."]),
        ({"max_epochs": [3]}, ["max_epochs: [3] is not a whole number or null."]),
        ({"max_epochs": "a: ["}, ["max_epochs: 'a: [' is not a whole number or null."]),
        ({"detect_anomaly": 1}, ["detect_anomaly: 1 is not true or false."]),
        ({"gradient_clip_val": "x"}, ["gradient_clip_val: 'x' is not a whole number or a number or null."]),
        ({"precision": "fp16"}, "precision: 'fp16' is not a precision of Lightning. Did you mean"),
        ({"precision": 8.25}, "precision: 8.25 is not a precision of Lightning."),
        ({"precision": "?"}, "There are: "),
    ],
)
def test_a_value_of_a_wrong_type_is_named(trainer: dict[str, Any], said: Any) -> None:
    found = list(trainer_faults(trainer))
    assert found == said if isinstance(said, list) else said in found[0]


@pytest.mark.parametrize(
    "trainer",
    [
        {"max_epochs": 3, "max_steps": "-1", "precision": "16-mixed", "detect_anomaly": True},
        {"max_epochs": None, "precision": 32, "limit_train_batches": 0.5, "gradient_clip_val": 1},
        {"precision": None, "accelerator": "cpu", "devices": "auto", "logger": False, "max_time": "00:01:00:00"},
        {"unknown": object(), "val_check_interval": 10, "deterministic": "warn", "fast_dev_run": 3},
    ],
)
def test_what_lightning_takes_is_not_named(trainer: dict[str, Any]) -> None:
    assert list(trainer_faults(trainer)) == []


def test_two_callbacks_that_do_the_same_work_are_named() -> None:
    found = list(conflicts([LRSchedule(), GradientMonitor(), LRSchedule("linear")], {}, {}))
    assert found == ["callbacks: LRSchedule() and LRSchedule(decay='linear') do the same work. Remove one."]
    clips = [GradientClip(), GradientClip(0.5)]
    assert "Remove one, or tell them apart by groups." in next(conflicts(clips, {}, {}))
    assert list(conflicts([GradientClip(groups={"g": "^g"}), GradientClip(groups={"d": "^d"})], {}, {})) == []


def test_two_writers_of_one_thing_are_named_unless_one_replaces_the_other() -> None:
    beside: tuple[Any, Any] = ({"gradient_clip_val": 0.5}, {"lr_scheduler": {"class_path": "a.B"}})
    found = list(conflicts([GradientClip(), LRSchedule()], *beside))
    assert [text.split(":")[0] for text in found] == ["gradient_clip_val", "callbacks"]
    assert list(conflicts([GradientClip(conflict="replace"), LRSchedule(conflict="replace")], *beside)) == []


def test_check_says_where_they_are() -> None:
    clip = {"class_path": "lightning_tricks.GradientClip"}
    content = {"fit": {"trainer": {"gradient_clip_val": 1.0, "callbacks": [clip], "precision": "half"}}}
    found = check(content).problems
    assert [text.split(": ")[0] for text in found] == ["fit.trainer.precision", "fit.trainer.gradient_clip_val"]
