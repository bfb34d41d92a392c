"""How callbacks are made, and what they say of themselves."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import lightning_tricks as lt
from lightning_tricks.lifecycle.construction import as_call, non_default, remembers_arguments
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.recipes import as_recipe, tricks
from lightning_tricks.schedules.phases import DECAYS, ELSEWHERE
from tests.matrix import EXAMPLES
from tests.problems import STRICT, Classifier, fit, trainer


class Named:
    """A class of ours for the tests."""

    also_called = {"size": "width={}"}  # noqa: RUF012

    @remembers_arguments
    def __init__(self, width: int = 1, depth: int = 2) -> None:
        self.width = width


class Empty:
    @remembers_arguments
    def __init__(self) -> None: ...


def test_the_signature_stays_that_of_the_constructor() -> None:
    assert list(inspect.signature(Named).parameters) == ["width", "depth"]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Named(size=3), r"^Named\(size=3\): Named has no argument 'size'\. Write width=3\.$"),
        (lambda: Named(widht=3), r"Did you mean 'width'\?$"),
        (lambda: Named(qqqqqq=3), r"It has width, depth\.$"),
        (lambda: Empty(a=1), r"It has none\.$"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_right_one(make, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: lt.GradientClip(max_norm=1), "Write rule=1"),
        (lambda: lt.GradientClip(clip_value=0.5), r"Write rule=ClipValue\(0\.5\)"),
        (lambda: lt.LRSchedule(warmup_steps=100), "Write warmup=100"),
        (lambda: lt.LRSchedule(warmup_epochs=2), "Write warmup='2ep'"),
        (lambda: lt.LRFinder(num_training=50), "Write num_steps=50"),
        (lambda: lt.GradientAccumulation(accumulate_grad_batches=4), "Write batches=4"),
    ],
)
def test_the_names_of_other_tools_are_answered_with_ours(make, remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        make()


def test_every_answer_names_an_argument_that_is_there_or_says_what_else_to_do() -> None:
    for cls in tricks().values():
        known = inspect.signature(cls).parameters
        for name, answer in cls.also_called.items():
            assert name not in known, f"{cls.__name__} has {name}"
            argument, equals, _ = answer.partition("=")
            assert not equals or argument in known or " " in argument, f"{cls.__name__}: {answer}"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_callback_shows_the_call_that_makes_it(name: str) -> None:
    trick = tricks()[name](**EXAMPLES[name])
    assert repr(trick).startswith(f"{type(trick).__name__}(") and len(repr(trick)) < 600
    for argument in non_default(trick):
        assert f"{argument}=" in repr(trick)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trick: pickle.loads(pickle.dumps(trick))])
def test_a_copy_shows_the_same_call(copied) -> None:
    assert repr(copied(lt.GradientClip(0.5, per="layer"))) == "GradientClip(rule=0.5, per='layer')"


def test_defaults_are_left_out_and_functions_are_named() -> None:
    assert repr(lt.GradientClip(1.0)) == "GradientClip()"
    assert repr(lt.GradientAccumulation(4, weight=len)) == "GradientAccumulation(batches=4, weight=len)"
    assert as_call(Named(1, depth=3)) == "Named(depth=3)"


def test_a_value_that_cannot_be_compared_is_shown() -> None:
    class Strange:
        def __eq__(self, other: object) -> bool:
            raise ValueError

        __hash__ = object.__hash__

        def __repr__(self) -> str:
            return "Strange"

    class Holder:
        @remembers_arguments
        def __init__(self, what: object = Strange()) -> None: ...

    assert as_call(Holder(Strange())) == "Holder(what=Strange)"


def test_a_subclass_of_a_trick_without_a_constructor_has_that_of_its_base() -> None:
    class Plain(Trick): ...

    assert repr(Plain()) == "Plain()"


# -- in a Trainer -----------------------------------------------------------------------------------------------------


def test_two_of_one_class_are_refused_by_both_names() -> None:
    with pytest.raises(
        lt.ConflictError, match=r"^GradientClip\(\): GradientClip\(rule=0\.5\) is in callbacks= too\. Remove"
    ):
        fit(Classifier(), [lt.GradientClip(), lt.GradientClip(0.5)])
    with pytest.raises(lt.ConflictError, match=r"LRSchedule\(decay='linear'\) is in callbacks= too\. Remove one\.$"):
        fit(Classifier(), [lt.LRSchedule(), lt.LRSchedule("linear")])
    with pytest.raises(lt.ConflictError, match=r"or tell them apart by groups=\.$"):
        fit(Classifier(), [lt.GradientMonitor(), lt.GradientMonitor()])


def test_the_same_callback_twice_is_refused() -> None:
    clip = lt.GradientClip()
    with pytest.raises(lt.ConflictError, match="it is in callbacks= twice"):
        fit(Classifier(), [clip, clip])


def test_callbacks_that_their_arguments_tell_apart_are_taken() -> None:
    monitors = [lt.GradientMonitor(groups={"all": "."}), lt.GradientMonitor()]
    fit(Classifier(), monitors, n=16)


@pytest.mark.skipif(not STRICT, reason="Lightning 2.5 asks of a class what its parent is, and fails first")
@pytest.mark.parametrize("cls", [lt.GradientClip, lt.GradientMonitor, lt.PredictionCollapse])
def test_a_class_in_place_of_a_callback_is_answered_with_the_call(cls: type) -> None:
    name = cls.__name__
    with pytest.raises(
        TypeError, match=rf"callbacks=\[{name}\]: it is the class\. Make a callback of it: {name}\(\.\.\.\)\."
    ):
        fit(Classifier(), [cls], n=16)


@pytest.mark.parametrize("cls", [lt.GradientClip, lt.GradientMonitor, lt.LRSchedule])
def test_a_class_in_place_of_the_list_is_answered_with_the_call(cls: type) -> None:
    name = cls.__name__
    with pytest.raises(
        TypeError, match=rf"^callbacks={name}: it is the class\. Make a callback of it: {name}\(\.\.\.\)\.$"
    ):
        trainer(cls)  # type: ignore[arg-type]


@pytest.mark.skipif(not STRICT, reason="Lightning 2.5 asks of a class what its parent is, and fails first")
@pytest.mark.parametrize(
    "others", [lambda c: [lt.GradientClip(), c], lambda c: [c, lt.GradientClip()]], ids=["last", "first"]
)
def test_a_class_beside_callbacks_is_answered_with_the_call_alone(others: Callable[[type], list[Any]]) -> None:
    with pytest.raises(TypeError, match=r"^callbacks=\[GradientMonitor\]: it is the class\.") as caught:
        fit(Classifier(), others(lt.GradientMonitor), n=16)
    error: BaseException | None = caught.value
    while error is not None:  # what Lightning shows above it, as the error that it followed
        assert "it is the class" in str(error)
        error = error.__context__


def test_tools_can_look_through_a_class() -> None:
    assert "on_fit_start" in dict(inspect.getmembers(lt.GradientMonitor))
    assert not hasattr(lt.GradientMonitor, "state_key") and hasattr(lt.GradientMonitor(), "state_key")


@pytest.mark.skipif(not STRICT, reason="Lightning 2.5 asks of a class what its parent is, and fails first")
def test_a_recipe_inside_of_a_list_is_answered_with_the_list() -> None:
    with pytest.raises(TypeError, match=r"a recipe is a list of callbacks already\. Write callbacks=recipe\('cnn'\)"):
        trainer([lt.recipe("cnn")])


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: lt.LRSchedule(lt.decays.Cosine),
            TypeError,
            r"Cosine is a class\. Pass an instance, Cosine\(\.\.\.\), or its name, 'cosine'",
        ),
        (lambda: lt.LRSchedule(dict), TypeError, r"dict is a class\. Pass an instance, dict\(\.\.\.\)\.$"),
        (lambda: lt.LRSchedule("wsd"), ValueError, r"Write LRSchedule\('one_minus_sqrt', hold='75%'\)"),
        (lambda: lt.LRSchedule("ReduceLROnPlateau"), ValueError, r"Write Plateau\('val_loss'\)"),
        (lambda: lt.GradientClip("agc"), TypeError, r"Write AGC\(\)\."),
        (lambda: lt.GradientClip("auto_clip"), TypeError, r"Write AutoClip\(\)\."),
        (lambda: lt.GradientClip("value"), TypeError, r"Write ClipValue\(0\.5\)"),
        (lambda: lt.GradientClip("0.5"), TypeError, r"Write it without quotes: 0\.5"),
        (lambda: lt.GradientClip("qqqqqq"), TypeError, r"Use e\.g\. 1\.0"),
        (lambda: lt.recipe("resnet18"), ValueError, "Did you mean 'cnn'"),
        (lambda: lt.recipe("distilbert"), ValueError, "Did you mean 'finetune'"),
        (lambda: lt.recipe("qqqqqq"), ValueError, "Use one of these"),
        (lambda: as_recipe({"recepe": "cnn"}), ValueError, r"tricks\(recepe='cnn'\): .*Did you mean 'recipe'\?"),
    ],
)
def test_what_is_meant_is_said(make, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("make", [lt.LRFinder, lt.GradientMonitor, lt.TrainingDoctor])
def test_a_figure_that_is_asked_for_too_early_says_why(make) -> None:
    with pytest.raises(
        lt.TrickError, match=r"nothing to draw before Trainer\.fit|no norm .* was logged yet|nothing was measured yet"
    ):
        make().plot()


def test_the_names_of_other_libraries_lead_to_schedules_that_exist() -> None:
    for name, answer in ELSEWHERE.items():
        assert name not in DECAYS
        for quoted in re.findall(r"^'(\w+)'", answer):
            assert quoted in DECAYS
