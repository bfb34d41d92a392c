"""Every step of an optimizer is seen, also where torch calls no hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks.lifecycle.step_hooks import hook_steps


class Bare(torch.optim.Optimizer):
    """A wrapper that leaves out ``super().__init__()``, as several published ones do."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


@pytest.mark.parametrize("wrapped", [False, True])
def test_every_step_is_seen_between_before_and_after_until_it_is_put_back(wrapped: bool) -> None:
    weight, seen = torch.ones(1, requires_grad=True), []
    weight.grad = torch.ones(1)
    inner = torch.optim.SGD([weight], lr=0.25)
    optimizer = Bare(inner) if wrapped else inner
    put_back = hook_steps(
        optimizer,
        lambda o, *_: seen.append((o, float(weight.detach()))),
        lambda o, *_: seen.append((o, float(weight.detach()))),
    )
    optimizer.step()
    assert seen == [(optimizer, 1.0), (optimizer, 0.75)]
    for undo in put_back:
        undo()
    optimizer.step()
    assert len(seen) == 2 and float(weight.detach()) == 0.5
    assert "step" not in vars(optimizer) or not wrapped
