"""Bad arguments: every argument of every public class, times every kind of wrong value, ends at construction.

The cells come from the signatures. A value that an annotation allows is left out by rule (``legal``); what a bound
allows beside it is in ``ALLOWED``. Nothing else is left out, so an argument that is new is tried at once.
"""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import pytest
import torch

from lightning_tricks import (
    AGC,
    AdaGC,
    CachedMixedPrecision,
    DeadUnits,
    Decay,
    FP32Islands,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRFinder,
    LRSchedule,
    MixedGenerations,
    ModeCollapse,
    MultiStep,
    Plateau,
    PosteriorCollapse,
    PrecisionDoctor,
    PredictionCollapse,
    ProgressMetrics,
    RepresentationCollapse,
    TrickError,
    UsageCollapse,
)
from lightning_tricks.config_check import public_classes
from lightning_tricks.decays import Exponential, Join, Phase, Piecewise, Step
from lightning_tricks.gradients.rules import ClipRule
from lightning_tricks.lifecycle.trick import Trick
from tests.matrix import EXAMPLES, NAMES, REQUIRED
from tests.problems import Classifier, fit

EXTRA = ("CachedMixedPrecision", "DurableCheckpointIO", "MixedGenerations", "Phase", "Rollback")
CLASSES = sorted(
    name
    for name, cls in public_classes().items()
    if (issubclass(cls, (Trick, ClipRule, Decay)) or name in EXTRA) and not inspect.isabstract(cls)
)

# what a class needs beside the argument that is tried
BESIDE: dict[str, dict[str, Any]] = {**EXAMPLES, **REQUIRED}

# kind of value -> value
VALUES: dict[str, Any] = {
    "object": object(),
    "class": int,
    "bytes": b"1.0",
    "dict": {"x": 1},
    "list": [1.5],
    "list of objects": [object()],
    "complex": 1j,
    "tensor": torch.ones(3),
    "none": None,
    "zero": 0,
    "zero point zero": 0.0,
    "minus one": -1,
    "minus a half": -0.5,
    "half": 0.5,
    "nan": math.nan,
    "inf": math.inf,
    "minus inf": -math.inf,
    "empty text": "",
    "empty list": [],
    "empty dict": {},
    "unknown name": "no such name",
    "bool": True,
    "text for a number": "1.0",
    "broken pattern": {"x": "("},
    "a pattern without end": {"x": "a" * 5000},
    "lines": "two\nlines",
}

# (class, argument) -> kinds that a bound allows beside the annotation, and why
_AT_ZERO = {"zero", "zero point zero"}
_DATA = {
    "list",
    "list of objects",
    "empty list",
    "dict",
    "empty dict",
    "broken pattern",
    "a pattern without end",
    "tensor",
}
ALLOWED: dict[tuple[str, str], set[str]] = {
    # lengths, patience and shares of 0: none of it
    **{(name, "grace"): {"zero"} for name in EXAMPLES if "grace" in EXAMPLES[name] or name == "RepresentationCollapse"},
    ("LRSchedule", "warmup"): {"zero"},
    ("LRSchedule", "hold"): {"zero"},
    ("LRSchedule", "warmup_start"): {*_AT_ZERO, "half"},
    ("LRSchedule", "final"): {*_AT_ZERO, "half"},
    ("LRSchedule", "weight_decay_final"): {*_AT_ZERO, "half"},
    ("LRSchedule", "overrides"): {"dict", "empty dict"},  # {pattern: factor}; none of them
    ("Phase", "start"): {*_AT_ZERO, "half"},
    ("Phase", "end"): {*_AT_ZERO, "half"},
    ("Phase", "length"): {"zero"},
    ("LinearCosine", "num_periods"): {*_AT_ZERO, "half"},
    ("LinearCosine", "alpha"): {*_AT_ZERO, "half"},
    ("LinearCosine", "beta"): {*_AT_ZERO, "half"},
    ("Plateau", "patience"): {"zero"},
    ("Plateau", "cooldown"): {"zero"},
    ("Plateau", "threshold"): {*_AT_ZERO, "half"},
    # p of a norm may be inf
    ("GradientMonitor", "norm_type"): {"inf", "half"},
    ("ClipNorm", "norm_type"): {"inf", "half"},
    # no name is left out, and none is tried
    ("AGC", "exclude"): {"empty list"},
    # data sets: anything with a length and an index; an empty one is refused where it is needed
    ("MixedGenerations", "real"): _DATA,
    ("MixedGenerations", "generated"): _DATA,
    # a function of (update, length); a class can be called too
    ("Function", "function"): {"class"},
    ("Phase", "decay"): {"class"},
    ("LRSchedule", "decay"): {"class"},
    ("GradientAccumulation", "weight"): {"class"},
}


def alternatives(annotation: str) -> set[str]:
    """``"int | dict[int, int]"`` -> its parts, without what is in brackets."""
    return {part.strip() for part in re.sub(r"\[.*?\](?=\s*(\||$))", "[]", annotation).split("|")}


def legal(name: str, argument: inspect.Parameter, kind: str) -> bool:
    value, kinds = VALUES[kind], alternatives(str(argument.annotation))
    if kind in ALLOWED.get((name, argument.name), ()):
        return True
    if (name, argument.name) in NAMES:
        return isinstance(value, str) and value != ""
    if value is None:
        return "None" in kinds
    if isinstance(value, bool):
        return "bool" in kinds
    return kind == "half" and "float" in kinds


CELLS = [
    (name, argument.name, kind)
    for name in CLASSES
    for argument in inspect.signature(public_classes()[name]).parameters.values()
    for kind in VALUES
    if not legal(name, argument, kind)
]


def house_form(text: str, owners: set[str], argument: str) -> None:
    """One line: class, argument, value, what is allowed, and the way out."""
    assert "\n" not in text, text
    assert len(text) < 600, text
    found = re.match(r"(\w+)\((\w+)=(.*?)\): (.+?)\. (.+)[.?]$", text)
    assert found is not None, text
    assert found[1] in owners, text
    assert argument in found[2], text


@pytest.mark.parametrize("name", CLASSES)
def test_every_illegal_value_is_refused_at_construction_in_house_form(name: str) -> None:
    cls, wrong = public_classes()[name], []
    for _, argument, kind in [cell for cell in CELLS if cell[0] == name]:
        arguments = {**BESIDE.get(name, {}), argument: VALUES[kind]}
        try:
            cls(**arguments)
            wrong.append(f"{argument}, {kind}: taken in silence")
        except (TypeError, ValueError) as error:
            try:
                house_form(str(error), {name}, argument)
            except AssertionError:
                wrong.append(f"{argument}, {kind}: {error}")
        except Exception as error:
            wrong.append(f"{argument}, {kind}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join([f"{len(wrong)} cells of {name}", *wrong])


def test_there_are_as_many_cells_as_there_should_be() -> None:
    assert len(CELLS) > 2000
    known = {(n, a) for n in CLASSES for a in inspect.signature(public_classes()[n]).parameters}
    assert set(ALLOWED) | NAMES <= known, "an exception for an argument that is gone"


# what is legal alone, and not together: class, arguments, the argument that is named
PAIRS: list[tuple[Any, dict[str, Any], str]] = [
    (GradientAccumulation, {"batches": 2, "target_batch_size": 8}, "target_batch_size"),
    (GradientAccumulation, {"target_batch_size": 8, "weight": "equal"}, "weight"),
    (GradientAccumulation, {"split_fn": lambda batch, parts: []}, "split_fn"),
    (GradientAccumulation, {"batches": {0: 0}}, "batches"),
    (GradientAccumulation, {"batches": {-1: 2}}, "batches"),
    (GradientClip, {"rule": AGC(), "per": "layer"}, "per"),
    (GradientClip, {"rule": AdaGC(), "per": "group"}, "per"),
    (GradientClip, {"rule": AGC}, "rule"),
    (GradientClip, {"groups": {"": "^net"}}, "groups"),
    (GradientMonitor, {"groups": {1: "^net"}}, "groups"),
    (AGC, {"exclude": ("(",)}, "exclude"),
    (AGC, {"exclude": ("a" * 1001,)}, "exclude"),
    (DeadUnits, {"layers": [""]}, "layers"),
    (PrecisionDoctor, {"modules": ["net", 1]}, "modules"),
    (FP32Islands, {"modules": [""]}, "modules"),
    (ProgressMetrics, {"keys": ["grad/norm", None]}, "keys"),
    (LossScaleGuard, {"min_scale": 8.0, "max_scale": 4.0}, "max_scale"),
    (LRFinder, {"min_lr": 1.0, "max_lr": 0.1}, "max_lr"),
    (LRFinder, {"min_lr": 0.1, "max_lr": 0.1}, "max_lr"),
    (LRFinder, {"num_steps": 9}, "num_steps"),
    (LRSchedule, {"warmup": 500, "total": 100}, "total"),
    (LRSchedule, {"warmup": "60%", "hold": "50%", "total": 100}, "total"),
    (LRSchedule, {"warmup": "3ep", "total": "2ep"}, "total"),
    (LRSchedule, {"warmup": "101%"}, "warmup"),
    (LRSchedule, {"warmup_shape": "constant"}, "warmup_start"),
    (LRSchedule, {"warmup_shape": "exponential"}, "warmup_start"),
    (LRSchedule, {"decay": "constant", "final": 0.1}, "final"),
    (LRSchedule, {"decay": "one_cycle", "warmup": 5}, "warmup"),
    (LRSchedule, {"decay": "noam", "hold": 5}, "hold"),
    (LRSchedule, {"total": "5%"}, "total"),
    (LRSchedule, {"total": 0}, "total"),
    (LRSchedule, {"momentum": (0.9,)}, "momentum"),
    (LRSchedule, {"momentum": (0.9, 1.5)}, "momentum"),
    (LRSchedule, {"overrides": {"(": 0.1}}, "overrides"),
    (LRSchedule, {"overrides": {"a" * 1001: 0.1}}, "overrides"),
    (LRSchedule, {"overrides": {"^net": -1.0}}, "overrides"),
    (LRSchedule, {"overrides": {"^net": Plateau("val_loss")}}, "overrides"),
    (Piecewise, {"boundaries": [10, 20], "values": [1.0, 0.1]}, "values"),
    (Piecewise, {"boundaries": [20, 10], "values": [1.0, 0.1, 0.01]}, "boundaries"),
    (MultiStep, {"milestones": [10, 10]}, "milestones"),
    (Join, {"phases": [Phase("linear"), Phase("cosine")]}, "phases"),
    (Step, {"every": 0}, "every"),
    (Exponential, {"gamma": 1.5}, "gamma"),
    (MixedGenerations, {"real": [1], "generated": [], "mode": "replace"}, "generated"),
    (MixedGenerations, {"real": [], "generated": [1], "mode": "fraction"}, "real"),
    (MixedGenerations, {"real": iter([1]), "generated": [1]}, "real"),
    (CachedMixedPrecision, {"precision": "bf16-mixed", "device": "cpu", "scaler": torch.amp.GradScaler("cpu")}, "scaler"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "arguments", "argument"), PAIRS, ids=lambda x: getattr(x, "__name__", "-"))
def test_arguments_that_contradict_each_other_are_refused_at_construction(
    cls: Any, arguments: dict[str, Any], argument: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        cls(**arguments)
    house_form(str(caught.value), {cls.__name__}, argument)


class Strange:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value", [Strange(), "a\nb\tc", "x" * 100_000, torch.ones(1000, 3)], ids=lambda v: type(v).__name__
)
def test_a_value_without_a_good_text_still_gives_one_short_line(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        GradientMonitor(every_n_steps=value)
    house_form(str(caught.value), {"GradientMonitor"}, "every_n_steps")


# what only a fit can know: the callback, and what the message must name
AT_FIT_START: list[tuple[Any, str]] = [
    (GradientMonitor(groups={"head": r"^net\.9\."}), "net."),
    (GradientClip(groups={"head": "^nett"}, per="group"), "net."),
    (GradientClip(AGC(exclude=("^nett",))), "net."),
    (LRSchedule(warmup=0, overrides={"^nett": 0.1}), "net"),
    (DeadUnits(layers=["nett"]), "net"),
    (RepresentationCollapse("nett"), "'net'"),
    (ModeCollapse("ecco"), "'echo'"),
    (PosteriorCollapse("nett", "net"), "'net'"),
    (PosteriorCollapse("net", "nett"), "'net'"),
    (UsageCollapse("nett"), "'net'"),
    (PrecisionDoctor(modules=["nett"]), "'net'"),
    (FP32Islands(["nett"]), "'net'"),
    (PredictionCollapse("nett", every_n_steps=1), "'net'"),
]


@pytest.mark.parametrize(("trick", "near"), AT_FIT_START, ids=lambda x: type(x).__name__)
def test_a_name_that_only_a_fit_can_judge_ends_it_at_once_with_the_nearest(trick: Any, near: str) -> None:
    module = Classifier()
    with pytest.raises(TrickError) as caught:
        fit(module, [trick])
    text = str(caught.value)
    assert near in text and "\n" not in text, text
    assert text.startswith((type(trick).__name__, "AGC")), text
    assert module.seen <= 1


@pytest.mark.parametrize("trick", [LRSchedule(Plateau("trian_loss"), warmup=0)], ids=lambda x: type(x).__name__)
def test_a_log_key_that_nobody_logs_ends_the_first_epoch_with_the_nearest(trick: Any) -> None:
    class Logging(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss)
            return loss

    with pytest.raises(TrickError, match="trian_loss.*'train_loss'"):
        fit(Logging(), [trick], max_epochs=3)
