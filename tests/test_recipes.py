from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from lightning_tricks import GradientClip, GradientMonitor, LRSchedule, recipe
from lightning_tricks.optimizers import OptimizerChoice
from lightning_tricks.recipes import KINDS, as_recipe
from tests.problems import Classifier, fit, weights


def names(callbacks: Any) -> list[str]:
    return [type(c).__name__ for c in callbacks]


@pytest.mark.parametrize("kind", [k for k in KINDS])
def test_every_recipe_trains_a_module_that_knows_nothing_of_it(kind: str) -> None:
    module = Classifier()
    before = weights(module)
    fit(module, recipe(kind), n=64, max_epochs=2)
    assert weights(module).isfinite().all() and not torch.equal(weights(module), before)


@pytest.mark.parametrize("kind", [k for k in KINDS])
def test_every_recipe_gives_its_reasons_and_sources(kind: str) -> None:
    assert "arXiv:" in (KINDS[kind].__doc__ or "")
    made = recipe(kind)
    text = str(made)
    assert text.startswith(f"recipe({kind!r})\n  optimizer {made.optimizer}")
    for choice in made.choices:
        assert choice.why and f"  {choice.trick}" in text


def test_what_the_literature_recommends() -> None:
    assert recipe("cnn").optimizer == OptimizerChoice("sgd", 0.1, 5e-4, momentum=0.9, nesterov=True)
    assert names(recipe("cnn")) == ["GradientMonitor", "LRSchedule", "TrainingDoctor", "LossScaleGuard"]
    assert recipe("transformer").optimizer.betas == (0.9, 0.95)
    clip = next(c for c in recipe("transformer") if isinstance(c, GradientClip))
    assert clip.rule.max_norm == 1.0  # type: ignore[attr-defined]
    curve = next(c for c in recipe("rnn") if isinstance(c, LRSchedule)).values(100)
    assert [curve[0], curve[49], curve[51], curve[80]] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    curve = next(c for c in recipe("transformer") if isinstance(c, LRSchedule)).values(200)
    assert max(curve) == 1.0 and curve[-1] == pytest.approx(0.1, abs=1e-3) and curve[0] == pytest.approx(0.1)


def test_what_only_the_user_can_name_is_left_out_and_said() -> None:
    assert "RepresentationCollapse: left out; pass layer= to have it" in str(recipe("self_supervised"))
    made = recipe("self_supervised", layer="projector")
    assert names(made)[-1] == "RepresentationCollapse" and made[-1].layer == "projector"
    assert names(recipe("gan", generator="g"))[-1] == "ModeCollapse"
    assert recipe("cnn", output="head")[-1].output == "head"
    assert recipe("cnn", PredictionCollapse={"output": "head", "patience": 5})[-1].patience == 5


def test_overrides_change_add_replace_and_leave_out() -> None:
    own = GradientClip(0.25)
    made = recipe("transformer", GradientClip=own, LRSchedule={"warmup": 7}, TrainingDoctor=None, DeadUnits={})
    assert own in made and names(made).count("GradientClip") == 1
    schedule = next(c for c in made if isinstance(c, LRSchedule))
    assert schedule.values(100)[6] == 1.0 > schedule.values(100)[5] and schedule.final == 0.1
    assert "TrainingDoctor" not in names(made) and "DeadUnits" in names(made)
    assert recipe("transformer", warmup=7, optimizer={"lr": 0.5}).optimizer.lr == 0.5
    assert next(c for c in recipe("rnn", rule=5.0) if isinstance(c, GradientClip)).rule.max_norm == 5.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: recipe("cnns"), ValueError, "kind must be one of cnn, rnn.*Did you mean 'cnn'"),
        (lambda: recipe(3), ValueError, "kind must be one of"),  # type: ignore[arg-type]
        (lambda: recipe("cnn", GradientClp={}), ValueError, "no callback 'GradientClp'. Did you mean 'GradientClip'"),
        (lambda: recipe("cnn", GradientClip={"rul": 1.0}), TypeError, "GradientClip has no rul. Did you mean 'rule'"),
        (lambda: recipe("cnn", GradientClip=0.5), TypeError, "must be a dict of settings"),
        (lambda: recipe("cnn", warmpu=3), TypeError, "no callback of this recipe has warmpu. Did you mean 'warmup'"),
        (
            lambda: recipe("cnn", every_n_steps=3),
            TypeError,
            "several callbacks have every_n_steps. Say which: GradientMonitor",
        ),
        (lambda: recipe("cnn", optimizer=0.1), TypeError, "optimizer must be a dict of settings"),
        (lambda: recipe("cnn", optimizer={"lrr": 0.1}), TypeError, "Did you mean 'lr'"),
        (lambda: recipe("transformer", rule=-1.0), ValueError, "max_norm must be > 0"),
        (lambda: as_recipe(7), TypeError, "tricks must be the name of a recipe"),  # type: ignore[arg-type]
        (lambda: as_recipe([7]), TypeError, "every element of tricks must be a callback"),
        (lambda: as_recipe(["GradientMonitr"]), ValueError, "Did you mean 'GradientMonitor'"),
    ],
)
def test_wrong_overrides_are_told(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_tricks_may_be_a_name_a_list_or_a_dict() -> None:
    assert names(as_recipe("gan")) == names(recipe("gan"))
    monitor = GradientMonitor()
    assert next(iter(as_recipe([monitor, "GradientClip"]))) is monitor
    assert names(as_recipe([monitor, "GradientClip"])) == ["GradientMonitor", "GradientClip"]
    made = as_recipe({"recipe": "cnn", "optimizer": {"lr": 0.01}, "GradientClip": {"rule": 0.5}})
    assert made.kind == "cnn" and made.optimizer.lr == 0.01 and names(made)[-1] == "GradientClip"
    made = as_recipe({"GradientClip": {"rule": 0.5}, "optimizer": {"kind": "sgd"}})
    assert names(made) == ["GradientClip"] and made.optimizer.kind == "sgd"
    assert as_recipe(made) is made


def test_a_recipe_can_be_copied_and_pickled() -> None:
    made = recipe("cnn")
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert names(copied) == names(made) and str(copied) == str(made)


def test_two_recipes_share_no_callback() -> None:
    one, two = recipe("cnn"), recipe("cnn")
    assert not {id(c) for c in one} & {id(c) for c in two}
