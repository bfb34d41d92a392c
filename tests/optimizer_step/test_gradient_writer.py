from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks.optimizer_step.gradient_writer import GradientWriter, make_skipping_safe
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page, honours_grad_scale
from lightning_tricks.optimizer_step.loss_scale import LossScale


def view(**arguments: Any) -> OptimizerView:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    for p in parameters:
        p.grad = torch.tensor([3.0, -4.0, 0.5])
    return OptimizerView(0, torch.optim.SGD(parameters, lr=1.0, **arguments), {}, LossScale(None))


def gradients(v: OptimizerView) -> list[list[float]]:
    return [p.grad.tolist() for p in v.parameters]


def test_factors_multiply_then_the_clamp_and_all_is_written_once() -> None:
    v, writer = view(), GradientWriter()
    writer.clamp(0.3)
    writer.scale(torch.tensor(0.5))
    writer.scale(torch.tensor(0.2))
    writer.scale_each([torch.tensor(1.0), torch.tensor(0.5)])
    assert gradients(v)[0] == [3.0, -4.0, 0.5]
    writer.commit(Page(v, 0, 1, []))
    assert gradients(v)[0] == pytest.approx([0.3, -0.3, 0.05])
    assert gradients(v)[1] == pytest.approx([0.15, -0.2, 0.025])
    writer.commit(Page(v, 0, 1, []))
    assert gradients(v)[0] == pytest.approx([0.3, -0.3, 0.05]), "an order is carried out once"


def test_a_fused_step_gets_the_factor_and_nothing_is_left_behind() -> None:
    v, writer = view(fused=True), GradientWriter()
    before = [p.detach().clone() for p in v.parameters]
    writer.scale(torch.tensor(0.1))
    writer.commit(Page(v, 0, 1, []))
    assert gradients(v)[0] == [3.0, -4.0, 0.5]
    v.optimizer.step()
    writer.release(v)
    assert not {"grad_scale", "found_inf"} & set(v.optimizer.__dict__)
    for p, old in zip(v.parameters, before, strict=True):
        torch.testing.assert_close(old - p.detach(), torch.tensor([0.3, -0.4, 0.05]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_float64_factor_is_written_since_a_fused_step_takes_float32(dtype: torch.dtype) -> None:
    p = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    p.grad = torch.tensor([3e50, -4e50, 0.0], dtype=dtype) if dtype == torch.float64 else torch.tensor([3.0, -4.0, 0.0])
    v, writer = OptimizerView(0, torch.optim.SGD([p], lr=1.0, fused=True), {}, LossScale(None)), GradientWriter()
    factor = 0.1 / torch.linalg.vector_norm(p.grad)
    writer.scale(factor)
    writer.skip_unless_finite(torch.ones((), dtype=dtype))
    writer.commit(Page(v, 0, 1, []))
    assert ("grad_scale" in v.optimizer.__dict__) == (dtype == torch.float32)
    v.optimizer.step()
    writer.release(v)
    expected = -torch.tensor([0.06, -0.08, 0.0], dtype=dtype)
    torch.testing.assert_close(p.detach(), expected, rtol=1e-14 if dtype == torch.float64 else 1e-6, atol=0)


def test_close_takes_back_what_a_step_that_never_came_has_left() -> None:
    v, writer = view(fused=True), GradientWriter()
    writer.scale(torch.tensor(0.1))
    writer.commit(Page(v, 0, 1, []))
    assert "grad_scale" in v.optimizer.__dict__
    writer.close()
    assert "grad_scale" not in v.optimizer.__dict__


class OwnStep(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize(
    ("make", "honours"),
    [
        (lambda p: torch.optim.SGD(p, lr=1.0, fused=True), True),
        (lambda p: torch.optim.Adam(p, fused=True), True),
        (lambda p: torch.optim.AdamW(p, fused=True), True),
        (lambda p: torch.optim.Adagrad(p, fused=True), True),
        (lambda p: torch.optim.AdamW(p, foreach=True), False),
        (lambda p: torch.optim.RMSprop(p), False),
        (lambda p: OwnStep(p, lr=1.0, fused=True), False),
    ],
)
def test_only_torchs_own_fused_steps_are_trusted_with_a_factor(make: Any, honours: bool) -> None:
    assert honours_grad_scale(make([torch.nn.Parameter(torch.zeros(2))])) is honours


def test_zero_buffers_change_no_update() -> None:
    runs = []
    for safe in (False, True):
        v = view(momentum=0.9, nesterov=True, weight_decay=0.1, fused=True)
        if safe:
            make_skipping_safe(v)
        for _ in range(3):
            v.optimizer.step()
        runs.append(torch.cat([p.detach() for p in v.parameters]))
    assert torch.equal(runs[0], runs[1])
