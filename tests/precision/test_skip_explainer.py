"""The explainer as a part of its own: a run in which the host, or the device, says which attempts were skipped."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.precision.findings import Finding
from lightning_tricks.precision.skip_explainer import SkipExplainer


class Scene:
    """What the explainer asks of a run: manual optimization, so that no forward pass is run a second time."""

    def __init__(self, scale: float = 65536.0) -> None:
        self.net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        names = {id(p): name for name, p in self.net.named_parameters()}
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(torch.ones(()))
        self.loss_scale = LossScale(scaler)
        self.view = OptimizerView(0, optimizer, names, self.loss_scale)
        self.sent: list[Any] = []
        self.run: Any = SimpleNamespace(
            loss_scale=self.loss_scale,
            trainer=SimpleNamespace(lightning_module=SimpleNamespace(automatic_optimization=False), world_size=1),
            publisher=SimpleNamespace(put_private=lambda *arguments: self.sent.append(arguments)),
        )
        self.found: list[Finding] = []
        self.explainer = SkipExplainer(self.found.append, lambda function: function)
        self.explainer.start({"0": self.net[0], "1": self.net[1]}, optimizers=1)
        self.step = 0

    def batch(self, x: torch.Tensor, *, skipped: bool | torch.Tensor, loss: float = 1.0) -> None:
        self.explainer.begin_batch(self.run, x, self.step)
        self.net(x)
        self.explainer.open(Page(self.view, self.step, self.step + 1, [torch.tensor(loss)]))
        if isinstance(skipped, torch.Tensor):
            self.view.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        if skipped is not True:
            self.explainer.stepped(self.view)
        self.explainer.end_batch(self.run)
        self.step += 1


def test_the_batch_after_a_skip_is_watched_and_names_the_module() -> None:
    scene = Scene()
    fine, huge = torch.ones(1, 2), torch.full((1, 2), 3e38)
    with torch.no_grad():
        scene.net[0].weight.fill_(10.0)
    scene.batch(huge, skipped=False)
    assert scene.found == [], "nothing was skipped before: nobody watches"
    scene.batch(fine, skipped=True)
    scene.batch(huge, skipped=False)
    assert [(f.kind, f.module, f.step) for f in scene.found] == [("forward overflow", "0", 2)]
    assert not any(m._forward_hooks for m in scene.net.modules())


@pytest.mark.parametrize(("scale", "first"), [(65536.0, 16), (1.0, 8)])
def test_a_streak_without_end_is_told_once_until_an_update_is_applied(scale: float, first: int) -> None:
    scene = Scene(scale)
    for _ in range(first - 1):
        scene.batch(torch.ones(1, 2), skipped=True)
    assert scene.found == []
    for _ in range(5):
        scene.batch(torch.ones(1, 2), skipped=True)
    assert [(f.kind, f.step) for f in scene.found] == [("backward overflow", first - 1)]
    scene.batch(torch.ones(1, 2), skipped=False)
    for _ in range(first):
        scene.batch(torch.ones(1, 2), skipped=True)
    assert [f.kind for f in scene.found] == ["backward overflow"] * 2


def test_a_loss_that_is_not_finite_is_no_sign_of_a_derivative_that_is_infinite() -> None:
    scene = Scene(1.0)
    for _ in range(20):
        scene.batch(torch.ones(1, 2), skipped=True, loss=math.nan)
    assert scene.found == []


def test_what_only_the_device_knows_is_asked_at_once_and_told_when_it_arrives(monkeypatch: Any) -> None:
    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    scene = Scene()
    for flag in (0.0, 1.0, 1.0):
        scene.batch(torch.ones(1, 2), skipped=torch.tensor(flag), loss=math.nan if scene.step == 2 else 1.0)
    scene.explainer.send_late(scene.run, 2)
    (step, vector, on_arrival), = scene.sent  # fmt: skip
    assert (step, vector.tolist(), scene.found) == (2, [0.0, 1.0, 1.0], [])
    on_arrival(vector.tolist())
    assert [(f.kind, f.step) for f in scene.found] == [("unexplained skip", 1), ("unexplained skip", 2)]
    assert scene.found[1].text == "the loss was not finite"
    scene.explainer.send_late(scene.run, 3)
    assert len(scene.sent) == 1, "nothing is asked twice"


def test_after_the_end_nothing_of_the_model_is_kept() -> None:
    scene = Scene()
    scene.batch(torch.ones(1, 2), skipped=True)
    scene.explainer.begin_batch(scene.run, torch.ones(1, 2), 1)
    assert any(m._forward_hooks for m in scene.net.modules())
    scene.explainer.stop()
    assert not any(m._forward_hooks for m in scene.net.modules())
    assert scene.explainer.modules == {}
