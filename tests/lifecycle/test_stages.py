from __future__ import annotations

import inspect

import lightning_tricks  # noqa: F401 (all subclasses exist)
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
    stages._finished = lambda run: None  # type: ignore[method-assign]
    assert stages.does("_finished") and not Stages().does("_finished")


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__()))


def test_stages_are_private_so_that_completion_shows_what_users_use() -> None:
    """Also that no class has a method that looks like a stage and is never called, under the name without underscore."""
    stages = {name for name, method in vars(Stages).items() if inspect.isfunction(method) and name != "does"}
    assert len(stages) >= 13 and all(name.startswith("_") for name in stages)
    public = {name.removeprefix("_") for name in stages} | {"make_parts", "settled", "reconfigured"}
    ours = [cls for cls in subclasses(Stages) if cls.__module__.startswith("lightning_tricks.")]
    assert len(ours) > 30
    assert not {f"{cls.__name__}.{name}" for cls in ours for name in public & set(dir(cls))}
