from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_tricks import Plateau


@given(
    values=st.lists(st.floats(-5, 5) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=60),
    mode=st.sampled_from(["min", "max"]),
    patience=st.integers(0, 4),
    cooldown=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
)
def test_the_rule_is_torchs(values: list[float], mode: Any, patience: int, cooldown: int, threshold: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments: Any = {"patience": patience, "cooldown": cooldown, "threshold": threshold}
    scheduler = ReduceLROnPlateau(optimizer, mode, factor=0.5, eps=0.0, **arguments)
    rule = Plateau("loss", mode, factor=0.5, **arguments)
    state = rule.init()
    for value in values:
        scheduler.step(value)
        state = rule.update(value, state)
        assert state["multiplier"] == optimizer.param_groups[0]["lr"]


def test_the_monitor_is_a_name() -> None:
    with pytest.raises(TypeError, match=r"Plateau\(monitor=3\): monitor must be the name of a logged metric"):
        Plateau(3)  # type: ignore[arg-type]
