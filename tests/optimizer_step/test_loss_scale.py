from __future__ import annotations

import pytest
import torch

from lightning_tricks import GradientClip, GradientMonitor
from lightning_tricks.optimizer_step import loss_scale as scaler
from lightning_tricks.optimizer_step.loss_scale import LossScale
from tests.problems import Classifier, Memory, fit, sgd, weights


def test_the_private_path_works_with_this_torch() -> None:
    assert scaler._private_works()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("init_scale", [1024.0, 2.0**26])
def test_the_public_path_gives_the_same_weights(
    fused: bool, init_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for works in (True, False):
        monkeypatch.setattr(scaler, "_private_works", lambda works=works: works)
        module, clip = Classifier(lambda p: sgd(p, fused=fused)), GradientClip(4.5)
        t = fit(module, [clip], precision="16-mixed", init_scale=init_scale, n=160)
        runs.append((weights(module), clip.run.clock.state_dict(), t.precision_plugin.scaler.get_scale()))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-6, atol=1e-7)
    assert runs[0][1:] == runs[1][1:]


def test_without_a_scaler_there_is_no_scale() -> None:
    optimizer = sgd([torch.nn.Parameter(torch.zeros(1))], fused=True)
    for none in (LossScale(None), LossScale(torch.amp.GradScaler("cpu", enabled=False))):
        assert not none.active
        assert none.scale() is None
        assert none.inverse(optimizer) is None


def test_the_scale_is_the_scalers() -> None:
    grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert LossScale(grad_scaler).scale() is None  # before its first use there is no tensor
    grad_scaler.scale(torch.ones(()))
    fused, plain = (sgd([torch.nn.Parameter(torch.zeros(1))], fused=f) for f in (True, False))
    scale = LossScale(grad_scaler)
    assert float(scale.scale()) == 8.0
    assert float(scale.inverse(fused)) == 0.125
    assert scale.inverse(plain) is None


@pytest.mark.parametrize("fused", [False, True])
def test_a_norm_that_overflows_although_no_element_does_is_skipped(fused: bool) -> None:
    """Thousands of gradients of 1e38 are finite, their norm in float32 is not."""

    class Huge(Classifier):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            return

        def on_after_backward(self) -> None:
            if self.seen == 2:
                for p in self.parameters():
                    p.grad.fill_(1e38)

    logger, clip = Memory(), GradientClip(1.0)
    fit(
        Huge(lambda p: sgd(p, fused=fused)),
        [GradientMonitor(), clip],
        precision="16-mixed",
        init_scale=1.0,
        n=32,
        logger=logger,
    )
    assert clip.run.clock.state_dict()["applied"] == [3]


def test_the_scale_is_bounded_before_and_after_its_first_use() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    known = LossScale(scaler)
    known.bound(1.0, 2.0**10)
    scaler.scale(torch.ones(()))
    assert scaler.get_scale() == 2.0**10
    scaler.update(2.0**-5)
    known.bound(4.0, None)
    assert scaler.get_scale() == 4.0
    known.retire()
    assert not known.active
    known.bound(64.0, None)
    assert scaler.get_scale() == 4.0, "a run without a loss scale leaves it alone"
