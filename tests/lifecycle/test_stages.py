from __future__ import annotations

import inspect

from lightning_tricks.lifecycle.dispatch import OWN_HOOKS
from lightning_tricks.lifecycle.stages import Stages


def test_every_stage_of_a_step_that_is_dispatched_is_a_stage() -> None:
    assert set(OWN_HOOKS) <= set(vars(Stages))


def test_a_stage_that_nobody_overrides_does_nothing() -> None:
    stages = Stages()
    names = [name for name, method in vars(Stages).items() if inspect.isfunction(method) and name != "does"]
    assert len(names) >= 13
    for name in names:
        count = len(inspect.signature(getattr(stages, name)).parameters)
        assert getattr(stages, name)(*[None] * count) in (None, {}) and not stages.does(name)


def test_an_attribute_of_one_instance_counts_as_doing_something() -> None:
    stages = Stages()
    stages.finished = lambda run: None  # type: ignore[method-assign]
    assert stages.does("finished") and not Stages().does("finished")
