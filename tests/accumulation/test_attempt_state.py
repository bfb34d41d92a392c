from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from lightning_tricks import TrickError
from lightning_tricks.accumulation.attempt_state import AttemptState


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.steps: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps.append(len(self.steps))
        out: torch.Tensor = self.norm(x)
        return out


def test_a_forward_pass_that_failed_is_undone_and_one_that_succeeded_stays() -> None:
    module, state = Counting(), AttemptState()
    state.take(module)
    module(torch.randn(4, 2))
    state.succeeded()
    after = {name: value.clone() for name, value in module.state_dict().items()}
    state.take(module)
    module(torch.randn(4, 2))
    state.put_back("out of memory")
    assert module.steps == [0]
    assert all(torch.equal(value, after[name]) for name, value in module.state_dict().items())


def test_a_large_buffer_that_the_step_writes_to_is_copied_from_the_second_step_on() -> None:
    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Parameter(torch.zeros(1 << 19), requires_grad=False)

        def forward(self) -> None:
            self.teacher.add_(1.0)

    module, state = Teacher(), AttemptState()
    state.take(module)
    module()
    state.succeeded()
    state.take(module)
    module()
    state.put_back("out of memory")
    assert float(module.teacher[0]) == 1.0


def test_what_cannot_be_undone_is_an_error_only_when_memory_runs_out() -> None:
    module, state = Counting(), AttemptState()
    module.hidden = threading.local()  # type: ignore[assignment]
    module.hidden.value = 1
    state.take(module)
    state.succeeded()
    with pytest.raises(TrickError, match=r"no memory \(boom\), and the step cannot be made again in smaller parts"):
        state.put_back("boom")
