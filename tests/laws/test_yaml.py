"""YAML: what can be said in Python can be said in a config, and a config that is written out says the same again."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel

import lightning_tricks
from lightning_tricks import ClipRule, Decay, Rollback
from tests.laws.strategies import CALLBACKS, law
from tests.matrix import EXAMPLES, VARIANTS

pytestmark = pytest.mark.filterwarnings("ignore")  # jsonargparse on its own future

# argument -> more values that it may have, beside those of the matrix
OBJECTS: dict[str, list[Any]] = {
    "rule": [
        0.5,
        lightning_tricks.ClipNorm(2.0, 1.0),
        lightning_tricks.ClipValue(0.5),
        lightning_tricks.AGC(0.02, exclude=("^head",)),
        lightning_tricks.AutoClip(20.0, window=50),
        lightning_tricks.ZClip(z=3.0, max_norm=2.0),
        lightning_tricks.AdaGC(beta=0.9),
    ],
    "decay": [
        "linear",
        lightning_tricks.decays.Polynomial(0.9),
        lightning_tricks.decays.Exponential(0.5, every="10%"),
        lightning_tricks.decays.Step("2ep", gamma=0.5),
        lightning_tricks.Plateau("val_loss", patience=3),
    ],
    "action": ["warn", "stop", "rollback", Rollback(keep=2, lr_factor=0.5)],
    "overrides": [{"^net": 0.1}, {"^net": "linear"}],
    "grace": [0, "5%", "1ep"],
    "total": [None, 100, "10ep"],
    "batches": [2, {0: 1, 10: 4}],
}


def values_of(name: str) -> dict[str, list[Any]]:
    """Every argument of a callback with the values that a config can hold; functions are named by their path."""
    found = {}
    for argument in inspect.signature(getattr(lightning_tricks, name)).parameters:
        known = [VARIANTS[name][argument], *([EXAMPLES[name][argument]] if argument in EXAMPLES[name] else [])]
        found[argument] = [v for v in [*known, *OBJECTS.get(argument, [])] if not inspect.isfunction(v)]
    return {argument: values for argument, values in found.items() if values}


def written(value: Any) -> Any:
    """A value as a user writes it into a config."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: written(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        if isinstance(value, (ClipRule, Decay, Rollback)):
            return {"class_path": f"lightning_tricks.{type(value).__name__}", "init_args": fields}
    if isinstance(value, dict):
        return {k: written(v) for k, v in value.items()}
    return [written(v) for v in value] if isinstance(value, (list, tuple)) else value


def loaded(text: str) -> tuple[Any, list[Any]]:
    Path("config.yaml").write_text(text)
    cli: Any = LightningCLI(
        BoringModel, run=False, args=["--config", "config.yaml", "--trainer.logger", "false"], save_config_callback=None
    )
    return cli, [c for c in cli.trainer.callbacks if type(c).__name__ in CALLBACKS]


def attributes(trick: Any) -> dict[str, Any]:
    """What a callback was configured with."""
    names = [*inspect.signature(type(trick)).parameters, *(n for n in vars(trick) if not n.startswith("_"))]
    return {name: getattr(trick, name) for name in names} | {"configuration": trick.configuration()}


@st.composite
def configured(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Arguments of a callback that it takes."""
    values = values_of(name)
    picked = draw(st.sets(st.sampled_from(sorted(values)))) | set(EXAMPLES[name]) & set(values)
    arguments = {argument: draw(st.sampled_from(values[argument])) for argument in sorted(picked)}
    try:
        getattr(lightning_tricks, name)(**copy.deepcopy(arguments))
    except (ValueError, TypeError, RuntimeError):  # arguments that contradict each other
        return dict(EXAMPLES[name])
    return arguments


def check(drawn: dict[str, dict[str, Any]]) -> None:
    """Into a config and out of it, written by hand and then by LightningCLI itself."""
    wanted = [getattr(lightning_tricks, name)(**copy.deepcopy(arguments)) for name, arguments in drawn.items()]
    entries = [
        {"class_path": f"lightning_tricks.{name}", "init_args": written(arguments)} for name, arguments in drawn.items()
    ]
    cli, once = loaded(yaml.safe_dump({"trainer": {"callbacks": entries}}, sort_keys=False))
    _, twice = loaded(cli.parser.dump(cli.config, skip_none=False))
    for found in (once, twice):
        assert [type(c) for c in found] == [type(c) for c in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert attributes(one) == attributes(other), type(one).__name__
            assert one.state_key == other.state_key
            for argument, value in drawn[type(one).__name__].items():
                held = getattr(one, argument)
                if type(held) is type(value) and isinstance(value, (int, float, str)):  # others become objects
                    assert held == value, argument


@pytest.mark.parametrize("name", CALLBACKS)
@given(data=st.data())
@law(2)
def test_every_callback_comes_out_of_a_config_as_it_went_in(name: str, data: Any) -> None:
    check({name: data.draw(configured(name))})


@pytest.mark.parametrize("argument", ["action", "decay", "rule"])
def test_every_object_that_is_an_argument_does_too(argument: str) -> None:
    name = next(name for name in CALLBACKS if argument in values_of(name))
    for value in OBJECTS[argument]:
        check({name: {**EXAMPLES[name], argument: value}})


@given(st.data())
@law(3)
def test_many_callbacks_in_one_config_do_not_mix(data: Any) -> None:
    names = data.draw(st.lists(st.sampled_from(CALLBACKS), min_size=2, max_size=5, unique=True))
    check({name: data.draw(configured(name)) for name in names})


def test_every_argument_is_tried_but_those_that_are_functions() -> None:
    for name in CALLBACKS:
        missing = set(inspect.signature(getattr(lightning_tricks, name)).parameters) - set(values_of(name))
        assert missing <= {"split_fn"}, name
