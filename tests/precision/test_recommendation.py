from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.precision.recommendation import PrecisionRow, recommend, shape_findings, speedup, unavailable

CPU = torch.device("cpu")


def row(precision: str, seconds: float, memory: int = 100, cosine: float = 1.0, **more: Any) -> PrecisionRow:
    return PrecisionRow(precision, [seconds, seconds * 1.01, seconds * 0.99], memory, cosine, 2.0, **more)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([("ieee-fp32", 1.0), ("bf16-mixed", 0.95)], "32-true"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 0.5)], "bf16-mixed"),
        ([("ieee-fp32", 1.0), ("tf32", 0.5), ("bf16-mixed", 0.5)], "32-true"),
        ([("ieee-fp32", 1.0), ("tf32", 0.5), ("bf16-mixed", 0.3), ("16-mixed", 0.3)], "bf16-mixed"),
        ([("ieee-fp32", 1.0), ("tf32", 0.5), ("bf16-mixed", 0.3), ("16-mixed", 0.2)], "16-mixed"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 1.0, 60)], "bf16-mixed"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 1.3, 60)], "32-true"),
        ([("ieee-fp32", 1.0), ("bf16-mixed", 0.5, 60, 0.8)], "32-true"),
        ([("ieee-fp32", 1.0), ("bf16-true", 0.2)], "32-true"),
    ],
    ids=str,
)
def test_the_recommendation_follows_from_the_numbers(rows: list[Any], wanted: str) -> None:
    assert recommend({r[0]: row(*r) for r in rows}, CPU)[0] == wanted


def test_reasons_are_given_with_their_baseline() -> None:
    rows = {r.precision: r for r in (row("ieee-fp32", 1.0, host_share=0.95), row("tf32", 0.5, host_share=0.95))}
    text = " ".join(recommend(rows, torch.device("cuda"))[1])
    assert "tf32: 2.00 times as fast as ieee-fp32" in text
    assert "Launch-bound: 95%" in text
    assert speedup(rows, "tf32", "bf16-mixed") is None


def test_shapes_that_idle_tensor_cores_are_named() -> None:
    net = nn.ModuleDict({
        "conv": nn.Conv2d(16, 30, 3), "first": nn.Conv2d(3, 32, 3), "bytes": nn.Embedding(257, 64),
        "loss": nn.BCELoss(), "fine": nn.Linear(64, 64), **{f"odd{i}": nn.Linear(9, 8) for i in range(4)},
    })  # fmt: skip
    on_gpu = shape_findings(net, torch.device("cuda"))
    assert "'conv' Conv2d(16, 30)" in on_gpu[0]
    assert "'bytes' Embedding(257, 64)" in on_gpu[0]
    assert "and 2 more" in on_gpu[0]
    assert "fine" not in on_gpu[0]
    assert "1 convolutions are not in channels_last" in on_gpu[1]
    assert "BCEWithLogitsLoss" in on_gpu[2]
    assert len(shape_findings(net, CPU)) == 2


def test_old_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    cuda = torch.device("cuda")
    assert "Tesla V100 does not have it" in unavailable("bf16-mixed", cuda)
    assert [unavailable(p, cuda) for p in ("16-mixed", "ieee-fp32")] == ["", ""]


@pytest.mark.parametrize(
    ("cosine", "length", "noise", "faithful"),
    [(0.33, 1.1, 0.10, True), (0.33, 1.1, 0.40, False), (0.33, 0.3, 0.10, False), (0.33, 3.0, 0.10, False),
     (-0.1, 1.0, -0.5, False), (0.995, 1.0, 0.999, True), (0.98, 1.0, math.nan, False), (math.nan, 1.0, 0.1, False)],
)  # fmt: skip
def test_a_gradient_may_differ_as_much_as_with_half_of_the_batch(
    cosine: float, length: float, noise: float, faithful: bool
) -> None:
    rows = {
        "ieee-fp32": row("ieee-fp32", 1.0, noise=noise),
        "bf16-mixed": row("bf16-mixed", 0.5, 60, cosine, length=length),
    }
    advice_given, reasons = recommend(rows, CPU)
    assert (advice_given == "bf16-mixed") is faithful
    assert any("gradient differs" in reason for reason in reasons) is not faithful
