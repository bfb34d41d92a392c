from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from torch.nn.functional import cross_entropy

from lightning_tricks import GradientAccumulation, TrickWarning
from tests.accumulation.problems import Hungry, ragged, run


class Measured(Hungry):
    """Counts what it has seen in a torchmetrics object."""

    def __init__(self) -> None:
        super().__init__(4)
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.accuracy(self.net(x), y)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def test_a_metric_does_not_remember_a_failed_try() -> None:
    module, data = Measured(), ragged((8, 8, 4))
    module.make_optimizer = lambda p: torch.optim.SGD(p, lr=0.0)  # type: ignore[assignment]
    with pytest.warns(TrickWarning):
        _, t = run(GradientAccumulation(1, on_oom="split"), data, module=module)
    right = sum(int((module.net(x).argmax(1) == y).sum()) for x, y in data)
    assert float(t.callback_metrics["accuracy"]) == pytest.approx(right / 20)


def test_the_size_that_fitted_is_kept_over_a_resume(tmp_path: Any) -> None:
    data = ragged((8, 8))
    with pytest.warns(TrickWarning):
        _, t = run(GradientAccumulation(1, on_oom="split"), data, module=Hungry(4))
    t.save_checkpoint(tmp_path / "a.ckpt")
    from tests.accumulation.problems import feed
    from tests.problems import trainer

    module = Hungry(4)
    trainer([GradientAccumulation(1, on_oom="split")], max_epochs=2).fit(
        module, feed(data), ckpt_path=tmp_path / "a.ckpt"
    )
    assert module.tries == 4, "two parts for each of the two batches, and no try with a whole one"


def test_a_step_without_a_loss_stays_one() -> None:
    module = Hungry(4)
    module.training_step = lambda batch, batch_idx: None  # type: ignore[method-assign,assignment,misc]
    before = [p.clone() for p in module.parameters()]
    run(GradientAccumulation(2, on_oom="split"), ragged((8, 8)), module=module)
    for p, q in zip(before, module.parameters(), strict=True):
        assert torch.equal(p, q)


def test_dropout_and_weights_that_share_memory_do_not_disturb() -> None:
    """The gradients of the open window are set aside while a batch runs, and put back before they are added to."""
    data = ragged((8, 8))
    module = Hungry(4)
    with pytest.warns(TrickWarning):
        measured, _ = run(GradientAccumulation(2, on_oom="split"), data, module=module)
    from tests.problems import network

    net = network()
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    cross_entropy(net(x), y).backward()
    expected = torch.cat([p.grad.double().flatten() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(measured[0], expected, rtol=1e-5, atol=1e-7)
