from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.precision.attempts import Attempt, all_finite, nonfinite_names, scale_used


def view(net: nn.Module) -> OptimizerView:
    names = {id(p): name for name, p in net.named_parameters()}
    return OptimizerView(0, torch.optim.SGD(net.parameters(), lr=0.1), names, LossScale(None))


def test_an_attempt_counts_as_skipped_until_its_step_runs() -> None:
    seen = view(nn.Linear(1, 1))
    attempt = Attempt(Page(seen, step=4, attempt=7, losses=[torch.ones(())]))
    assert (attempt.outcome, attempt.step, attempt.number) == (True, 4, 7)
    attempt.stepped()
    assert attempt.outcome is False


@pytest.mark.parametrize("on_host", [True, False])
def test_a_fused_step_that_was_skipped_on_its_device_says_so(on_host: bool, monkeypatch: Any) -> None:
    if not on_host:
        monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    seen = view(nn.Linear(1, 1))
    seen.optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    attempt = Attempt(Page(seen, 0, 1, []))
    attempt.stepped()
    assert isinstance(attempt.outcome, bool) is on_host and bool(attempt.outcome)


def test_losses_are_finite_when_all_of_them_are() -> None:
    seen = view(nn.Linear(1, 1))
    for values in ([], [1.0], [1.0, math.inf], [math.nan]):
        losses = [torch.tensor([v]) for v in values]
        assert Attempt(Page(seen, 0, 1, losses)).loss_finite() is all(map(math.isfinite, values))
        assert not losses or bool(all_finite(losses)) is all(map(math.isfinite, values))


def test_parameters_with_bad_gradients_are_named_dense_or_sparse() -> None:
    net = nn.ModuleDict({"table": nn.Embedding(3, 2, sparse=True), "head": nn.Linear(2, 1), "idle": nn.Linear(1, 1)})
    net["head"](net["table"](torch.tensor([0, 2]))).sum().backward()
    seen = view(net)
    assert nonfinite_names(seen) == []
    net["table"].weight.grad._values()[0] = math.nan
    net["head"].bias.grad.fill_(-math.inf)
    assert nonfinite_names(seen) == ["table.weight", "head.bias"]
    for p in net.parameters():
        p.grad = None
    assert nonfinite_names(seen) == []


def test_the_scale_of_the_skipped_attempt_is_the_one_before_the_scaler_lowered_it() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, backoff_factor=0.25)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler.scale((weight * math.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 256.0
    assert scale_used(LossScale(scaler)) == 1024.0
    assert scale_used(LossScale(None)) == 1.0
    assert scale_used(SimpleNamespace(scaler=scaler, scale=lambda: None)) == 1.0  # type: ignore[arg-type]
