from __future__ import annotations

import math

import pytest
import torch

from lightning_tricks.precision import health


def test_headroom_is_the_distance_to_the_largest_float16() -> None:
    values = torch.tensor([65504.0, 1.0, 131008.0, 0.25])
    top = float(torch.finfo(torch.float16).max)
    assert health.headroom(values).tolist() == pytest.approx([math.log2(top / x) for x in values.tolist()], abs=1e-4)
    assert health.headroom(torch.tensor([math.inf])).item() == -math.inf
    assert math.isnan(health.headroom(torch.tensor([-1.0])).item())


def test_judging_looks_at_float16_outputs_only_when_the_run_is_in_float16() -> None:
    table = [[5e4, 5e4, 7e4], [1.0] * 3, [0.0] * 3, [9.0] * 3]
    dtypes = {"a": torch.float16, "b": torch.float32, "c": torch.float32}
    assert [f.module for f in health.judge(["a", "b", "c"], dtypes, table, half=True, step=0)] == ["a"]
    would = health.judge(["a", "b", "c"], dtypes, table, half=False, step=0)
    assert [f.module for f in would] == ["a", "b", "c"]
    assert "float16 ends at 65,504" in would[2].text


def test_underflow_needs_more_than_half_of_the_gradient() -> None:
    for small, kinds in ((4.0, []), (6.0, ["underflow"])):
        table = [[1.0], [1.0], [small], [10.0]]
        assert [f.kind for f in health.judge(["a"], {"a": torch.float16}, table, half=True, step=0)] == kinds


def test_a_readable_table_has_true_gradients() -> None:
    table = health.readable(["a", "b", "c"], [[math.inf, -1.0, 0.0], [8.0, -1, -1], [1, 0, 0], [2, 0, 0]], 4.0)
    assert table["a"] == {
        "largest_output": math.inf,
        "largest_gradient": 2.0,
        "headroom": -math.inf,
        "underflow": 0.5,
    }
    assert "b" not in table
    assert table["c"]["headroom"] == math.inf


def test_an_eps_is_small_when_float16_rounds_it_to_zero() -> None:
    values = [1e-8, 2e-8, 6e-8, 1e-4]
    found = health.small_epses([{"betas": (0.9, 0.999), "eps": eps} for eps in values], step=2)
    zero = [eps for eps in values if torch.tensor(eps).half().item() == 0]
    assert [f.text.split(" ")[0] for f in found] == [f"eps={eps:g}" for eps in zero]
    assert health.small_epses([{"eps": 1e-8}, {"betas": (0.9, 0.999)}], step=2) == [], "SGD, and an Adam without one"
