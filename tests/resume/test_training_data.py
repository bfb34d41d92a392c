from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks.resume.training_data import Data, Loader, moving, repeated
from lightning_tricks.resume.writers import Writer


@pytest.mark.parametrize(
    ("writer", "updates", "inside"),
    [
        (Writer(), 10, ""),
        (Writer(every_n_steps=20, every_n_epochs=0), 10, ""),
        (Writer(every_n_steps=15, every_n_epochs=0), 10, "every 15 steps"),
        (Writer(every_n_steps=10, every_n_epochs=0), float("inf"), "every 10 steps"),
        (Writer(interval="0:10:00", every_n_epochs=0), 10, "every 0:10:00"),
        (Writer(after_validation=True), 10, "after each validation"),
        (Writer(on_exception=True), 10, "when training fails"),
        (Writer(every_n_steps=15, weights_only=True), 10, ""),
    ],
    ids=str,
)
def test_checkpoints_inside_an_epoch_are_found(writer: Writer, updates: float, inside: str) -> None:
    found = repeated(Data((Loader(),), updates), [writer])
    assert [f.what.split(" falls")[0] for f in found] == ([f"a checkpoint {inside}"] if inside else [])


def test_data_that_can_resume_are_no_finding_there() -> None:
    inside = [Writer(every_n_steps=3, every_n_epochs=0)]

    def fixes(loader: Loader, **more: Any) -> list[str]:
        return [f.fix for f in repeated(Data((loader,), 10, **more), inside)]

    assert "Use ExactResume(), a loader with state_dict" in fixes(Loader())[0]
    assert "Use a loader with state_dict" in fixes(Loader(iterable=True))[0]
    assert fixes(Loader(stateful=True)) == fixes(Loader(), exact=True) == []
    assert len(fixes(Loader(iterable=True), exact=True)) == 1, "ExactResume refuses these"
    assert fixes(Loader(stateful=True, shuffled=True)) == ["Add ExactResume()"]
    assert fixes(Loader(shuffled=True), exact=True) == []
    assert "Use LRSchedule" in fixes(Loader(stateful=True), made_early=True)[0]
    assert repeated(Data((Loader(shuffled=True),), 10), []) == []


def test_what_changes_is_told_unless_exact_resume_saves_it() -> None:
    one, many = moving(["a"], [], []), moving(["a", "b"], [], [])
    assert one[0].what == "a changes while training, and is in no checkpoint"
    assert many[0].what == "a, b change while training, and are in no checkpoint"
    (lost,) = moving([], ["module.rows"], [])
    assert lost.what == "module.rows changes while training, and cannot be saved"
    (frozen,) = moving([], [], ["BackboneFinetuning"])
    assert "BackboneFinetuning leaves frozen" in frozen.what and "#21901" in frozen.what
    assert moving([], [], []) == []
