from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_tricks import GradientAccumulation, TrickWarning
from lightning_tricks.accumulation.spec import AccumulationSpec, current_configuration, rate_factor
from lightning_tricks.accumulation.window import ByUpdate, Fixed, Target
from tests.problems import Classifier, loader, trainer

# What 0.1.0 wrote before the configuration had every argument: after 6 updates of GradientAccumulation(3).
OLD: dict[str, Any] = {
    "version": 1,
    "configuration": {
        "lr_scaling": "none",
        "on_oom": "raise",
        "weight": "samples",
        "window": "Fixed(batches=3)",
    },
    "clock": {"version": 1, "attempted": [6], "applied": [6]},
    "state": {"limit": None, "micro_size": 8.0, "open": None, "rate_factor": 1.0, "reference": 8.0},
}


def test_a_run_with_an_old_state_goes_on_as_with_a_new_one(tmp_path: Path) -> None:
    first = trainer([GradientAccumulation(3)], max_epochs=2)
    first.fit(Classifier(), loader(64))
    first.save_checkpoint(tmp_path / "new.ckpt")
    saved = torch.load(tmp_path / "new.ckpt", weights_only=True)
    assert saved["callbacks"]["GradientAccumulation{}"]["state"] == OLD["state"]
    saved["callbacks"]["GradientAccumulation{}"] = OLD
    torch.save(saved, tmp_path / "old.ckpt")
    weights = []
    for name in ("new", "old"):
        module = Classifier()
        with warnings.catch_warnings():
            warnings.simplefilter("error", TrickWarning)
            trainer([GradientAccumulation(3)], max_epochs=3).fit(
                module, loader(64), ckpt_path=tmp_path / f"{name}.ckpt"
            )
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*weights)


def test_another_window_than_that_of_an_old_state_is_told() -> None:
    with pytest.warns(TrickWarning, match=r"batches: 'Fixed\(batches=3\)' -> 4"):
        GradientAccumulation(4).load_state_dict(copy.deepcopy(OLD))
    assert current_configuration({"weight": "samples"}, Fixed(3)) == {"weight": "samples"}


def test_the_window_is_the_one_that_the_arguments_mean() -> None:
    assert GradientAccumulation(4).spec.window == Fixed(4)
    assert GradientAccumulation({0: 1, 9: 2}).spec.window == ByUpdate({0: 1, 9: 2})
    assert GradientAccumulation(target_batch_size=64).spec.window == Target(64)
    spec = GradientAccumulation(on_oom="split", lr_scaling="sqrt").spec
    assert spec.splits and spec.scales_rate
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.weight = "equal"  # type: ignore[misc]


@pytest.mark.parametrize("scaling", ["none", "linear", "sqrt"])
def test_the_rate_follows_the_effective_batch_over_one_micro_batch(scaling: str) -> None:
    power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[scaling]
    assert rate_factor(scaling, Fixed(4), 4, 8.0) == pytest.approx(4.0**power)
    exact = rate_factor(scaling, Target(100), math.ceil(100 / 8), 8.0)
    assert exact == pytest.approx(12.5**power), "the exact ratio of a target, not the 13 micro-batches"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"weight": "sample"}, "Did you mean 'samples'"),
        ({"on_oom": "retry"}, "on_oom must be one of raise, split"),
        ({"lr_scaling": "cube"}, "lr_scaling must be one of none, linear, sqrt"),
        ({"split_fn": len}, "split_fn is used with on_oom='split' only"),
        ({"target_batch_size": 8, "weight": "equal"}, "a target size needs weights that are sizes"),
        ({"batches": 2, "target_batch_size": 8}, "exclude each other"),
        ({"batches": 0}, "batches must be a whole number >= 1"),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments: dict[str, Any], text: str) -> None:
    good = vars(GradientAccumulation().spec)
    assert AccumulationSpec(**good) == GradientAccumulation().spec
    with pytest.raises(ValueError, match=text):
        AccumulationSpec(**{**good, **arguments})
