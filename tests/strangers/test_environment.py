"""LIGHTNING_TRICKS reaches a Trainer that a package makes itself."""

from __future__ import annotations

import pytest

from tests.strangers.cases import strangers
from tests.strangers.recorder import recorded, undisturbed
from tests.strangers.signs import assert_said
from tests.strangers.stranger import Stranger

pytestmark = [pytest.mark.strangers, pytest.mark.filterwarnings("ignore")]
NAMES = ("SanityCheck", "LRFinder", "GradientMonitor", "PrecisionDoctor", "TrainingDoctor", "ResumeGuard")


@pytest.mark.parametrize("stranger", strangers("observers from the environment", lambda stranger: stranger.hidden))
def test_observers_from_the_environment_watch_and_change_nothing(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = undisturbed(stranger)
    arguments = {"LRFinder": "apply=False, num_steps=20"}
    with monkeypatch.context() as environment:
        environment.setenv("LIGHTNING_TRICKS", ",".join(f"{name}({arguments.get(name, '')})" for name in NAMES))
        watched = recorded(stranger)
    assert set(NAMES) <= set(watched.callbacks)
    assert watched.tail(0) == alone.tail(0)
    assert_said(stranger, watched.warnings, set(NAMES))


@pytest.mark.parametrize("stranger", strangers("recipe from the environment", lambda stranger: stranger.hidden))
def test_a_recipe_from_the_environment_trains_to_the_end(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as environment:
        environment.setenv("LIGHTNING_TRICKS", "transformer")
        record = recorded(stranger)
    assert record.finished and record.finite
