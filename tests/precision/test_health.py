from __future__ import annotations

import math

import pytest
import torch

from lightning_tricks.modules.trace import Call
from lightning_tricks.precision import health
from lightning_tricks.precision.health import Finding, Findings


def test_headroom_is_the_distance_to_the_largest_float16() -> None:
    values = torch.tensor([65504.0, 1.0, 131008.0, 0.25])
    top = float(torch.finfo(torch.float16).max)
    assert health.headroom(values).tolist() == pytest.approx([math.log2(top / x) for x in values.tolist()], abs=1e-4)
    assert health.headroom(torch.tensor([math.inf])).item() == -math.inf
    assert math.isnan(health.headroom(torch.tensor([-1.0])).item())


def test_kinds_are_checked() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        Finding("bad luck", "", "", "", 0)


CALL = {"fine": Call("a", 1.0, 2.0), "bad": Call("b", 2.0, math.inf), "mask": Call("m", 2.0, math.inf, masks=True)}


@pytest.mark.parametrize(
    ("calls", "loss", "data", "kind", "module"),
    [
        (["fine", "bad"], False, True, "forward overflow", "b"),
        (["fine", "bad"], False, False, "nonfinite input", ""),
        (["fine"], False, True, "loss overflow", ""),
        (["mask", "bad"], False, True, "forward overflow", "b"),
        (["mask", "fine"], False, True, "loss overflow", ""),
    ],
)
def test_a_forward_pass_is_explained(calls: list[str], loss: bool, data: bool, kind: str, module: str) -> None:
    found = health.explain([CALL[c] for c in calls], loss_finite=loss, input_finite=data, step=3)
    assert found is not None
    assert (found.kind, found.module, found.step) == (kind, module, 3)


def test_a_function_between_modules_and_broken_weights_are_told_apart() -> None:
    between = health.explain([Call("b", math.inf, math.inf)], loss_finite=False, input_finite=True, step=0)
    assert between is not None
    assert between.module == "before b"
    weight = health.explain([Call("b", 1.0, math.inf, False)], loss_finite=False, input_finite=True, step=0)
    assert weight is not None
    assert weight.kind == "nonfinite weight"
    assert health.explain([CALL["mask"]], loss_finite=True, input_finite=True, step=0) is None
    assert health.explain([CALL["fine"]], loss_finite=True, input_finite=True, step=0) is None


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


def test_findings_are_sorted_by_weight_and_survive_a_checkpoint() -> None:
    found = Findings()
    assert found.add(health.too_large(4.0, [], 1))
    assert found.add(health.hopeless(1.0, ["w"], 9, 5))
    assert not found.add(health.too_large(2.0, [f"p{i}" for i in range(9)], 7))
    twin = Findings([Finding(**vars(f)) for f in found])
    assert [(f.kind, f.times, f.step) for f in twin] == [("backward overflow", 1, 5), ("loss scale too large", 2, 1)]
    assert len(twin) == 2
    assert "p5 and 3 more" in list(twin)[1].text


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
