from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_tricks import TrickWarning
from lightning_tricks.gradients.steps import key_ending, warn_of_unannounced


def test_keys_have_an_ending_where_there_are_several_optimizers() -> None:
    views: Any = [SimpleNamespace(index=0), SimpleNamespace(index=1)]
    one: Any = SimpleNamespace(views=views[:1])
    two: Any = SimpleNamespace(views=views)
    assert key_ending(one, views[0]) == ""
    assert [key_ending(two, view) for view in views] == ["/optimizer0", "/optimizer1"]


def test_a_step_that_was_not_announced_is_told_once_per_run() -> None:
    said: set[str] = set()

    def first_to_say(what: str) -> bool:
        first = what not in said
        said.add(what)
        return first

    run = SimpleNamespace(common=SimpleNamespace(first_to_say=first_to_say))
    with pytest.warns(TrickWarning, match="GradientClip: an optimizer was stepped without Lightning") as told:
        for _ in range(3):
            warn_of_unannounced(run, "GradientClip")  # type: ignore[arg-type]
    assert len(told) == 1
