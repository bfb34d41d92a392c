from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_tricks import AGC, ClipNorm
from lightning_tricks.gradients.rules import as_rule
from lightning_tricks.gradients.specs import ClipSpec, MonitorSpec


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MonitorSpec(every_n_steps=0), ValueError, r"GradientMonitor\(every_n_steps=0\)"),
        (lambda: MonitorSpec(norm_type=-math.inf), ValueError, "norm_type must be > 0"),
        (lambda: MonitorSpec(norm_type=0.0), ValueError, "norm_type must be > 0"),
        (lambda: MonitorSpec(per_layer="five"), ValueError, "per_layer must be 'top', True or False"),  # type: ignore[arg-type]
        (lambda: MonitorSpec(histograms=1), TypeError, "histograms must be True or False"),  # type: ignore[arg-type]
        (lambda: ClipSpec(ClipNorm(1.0), per="layers"), ValueError, "Did you mean 'layer'"),
        (lambda: ClipSpec(ClipNorm(1.0), nonfinite="ignore"), ValueError, "nonfinite must be one of skip"),
        (lambda: ClipSpec(ClipNorm(1.0), conflict="both"), ValueError, "conflict must be one of error, replace"),
        (lambda: ClipSpec(AGC(), per="layer"), ValueError, "AGC always works per unit"),
        (lambda: ClipSpec(as_rule(-1.0)), ValueError, "max_norm must be > 0"),
    ],
)
def test_bad_arguments_are_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_arguments_are_made_uniform() -> None:
    assert MonitorSpec(norm_type=1).norm_type == 1.0 and type(MonitorSpec(norm_type=1).norm_type) is float
    assert MonitorSpec(norm_type=math.inf).norm_type == math.inf
    assert ClipSpec(2.5).rule == ClipNorm(2.5)  # type: ignore[arg-type]


def test_the_users_groups_are_copied() -> None:
    given = {"head": "^head"}
    specs = MonitorSpec(groups=given), ClipSpec(ClipNorm(1.0), groups=given)
    given["body"] = "^body"
    assert [spec.groups for spec in specs] == [{"head": "^head"}] * 2
