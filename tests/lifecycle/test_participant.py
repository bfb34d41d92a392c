from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks import DeadUnits, GradientClip, SanityCheck, TrickError
from lightning_tricks.lifecycle.participant import Participant
from lightning_tricks.lifecycle.stages import Stages


def test_the_configuration_is_every_argument_by_its_name() -> None:
    assert DeadUnits(["a"], patience=2).configuration() == {
        **{"layers": ["a"], "every_n_steps": 25, "action": "warn", "patience": 2, "grace": "10%"}
    }
    checks = ("initial_loss", "overfit_batch", "input_matters", "sample_independence")
    assert SanityCheck().configuration() == {**dict.fromkeys(checks, True), "on_failure": "warn"}


class Part(Stages):
    def __init__(self, name: str, told: list[Any]) -> None:
        self.name, self.told = name, told

    def _before_start(self, run: Any) -> None:
        self.told.append((self.name, run))


class Whole(Participant):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def _make_parts(self) -> tuple[Stages, ...]:
        return (Part("first", self.told), Part("second", self.told))

    def _before_start(self, run: Any) -> None:
        self.told.append(("whole", run))


def test_a_stage_is_told_to_the_whole_and_then_to_its_parts_in_their_order() -> None:
    whole = Whole()
    whole.call_stage("_before_start", 7)
    assert whole.told == [("whole", 7), ("first", 7), ("second", 7)]
    assert whole.parts is whole.parts, "made once"
    assert all(x.does("_before_start") and not x.does("_finished") for x in (whole, *whole.parts))


def test_before_the_first_fit_there_is_no_run() -> None:
    clip = GradientClip(1.0)
    assert clip.run_or_none is None and clip.live_run is None
    with pytest.raises(TrickError, match=r"has not been in a Trainer\.fit yet"):
        clip.run  # noqa: B018
