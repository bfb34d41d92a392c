from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lightning_tricks.accumulation.lightning_loop import (
    begin_window,
    loss_of_nothing,
    reduce_in_backward,
    steer,
    steps_after,
    weight_of_all,
)


def test_lightnings_own_rules_then_step_exactly_where_a_window_closes_and_clear_nowhere() -> None:
    """Lightning steps when (index + 1) % N == 0, and clears gradients when index % N == 0 (but for index 0)."""
    for index in range(1, 200):
        for closes in (True, False):
            n = steps_after(index, closes)
            assert ((index + 1) % n == 0) == closes
            assert index % n != 0


def test_a_window_that_begins_between_lightnings_own_clears_the_gradients_itself() -> None:
    seen: list[Any] = []
    optimization = SimpleNamespace(
        _on_before_zero_grad=lambda optimizer: seen.append(("before", optimizer)),
        _optimizer_zero_grad=lambda index, optimizer: seen.append((index, optimizer)),
    )
    model = SimpleNamespace(require_forward_param_sync=False, require_backward_grad_sync=True)
    trainer: Any = SimpleNamespace(
        optimizers=["a"],
        strategy=SimpleNamespace(model=model, root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(automatic_optimization=optimization)),
        world_size=1,
    )
    begin_window(trainer, 3, clears_itself=True)
    assert seen == [] and model.require_forward_param_sync, "DDP sends the buffers of rank 0 again"
    begin_window(trainer, 3, clears_itself=False)
    assert seen == [("before", "a"), (3, "a")]
    reduce_in_backward(trainer, False)
    assert not model.require_backward_grad_sync
    steer(trainer, 5)
    assert trainer.accumulate_grad_batches == 5
    assert weight_of_all(trainer, torch.tensor(3)) == 3.0


def test_a_loss_of_nothing_goes_backward_and_leaves_no_gradient() -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    loss = loss_of_nothing(trainer)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0 and loss.is_leaf
