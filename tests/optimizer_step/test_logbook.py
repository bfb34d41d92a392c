from __future__ import annotations

import pytest
import torch

from lightning_tricks import TrickError
from lightning_tricks.numerics import host
from lightning_tricks.optimizer_step import logbook
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale


def test_gradients_are_read_once_for_each_kind_of_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    page = Page(OptimizerView(0, torch.optim.SGD([p], lr=1.0), {}, LossScale(None)), 0, 1, [])
    first = page.norms(), page.total(), page.norms(torch.inf)
    monkeypatch.setattr(OptimizerView, "read", lambda *_: pytest.fail("they were read before"))
    assert [x is y for x, y in zip(first, (page.norms(2.0), page.total(2.0), page.norms(torch.inf)), strict=True)] == [
        True
    ] * 3
    assert first[0].tolist() == [5.0] and float(first[1]) == 5.0 and first[2].tolist() == [4.0]


def test_a_correction_is_in_the_norms_and_must_come_before_them() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    view = OptimizerView(0, torch.optim.SGD([p], lr=1.0), {}, LossScale(None))
    page = Page(view, 0, 1, [])
    assert not page.corrected and page.to_true() is None
    page.correct(torch.tensor(0.5))
    assert page.corrected and page.norms().tolist() == [2.5]
    with pytest.raises(TrickError, match="norms of attempt 1 were read before their correction was known"):
        page.correct(torch.tensor(2.0))


def test_gradients_that_came_later_are_seen_after_another_look() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    page = Page(OptimizerView(0, torch.optim.SGD([p], lr=1.0), {}, LossScale(None)), 0, 1, [])
    assert page.empty
    p.grad = torch.ones(2)
    page.look_again()
    assert not page.empty and list(page.present) == [0]


def test_parameters_without_gradient_have_norm_zero() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    for p in parameters[::2]:
        p.grad = torch.ones(3)
    page = Page(OptimizerView(0, torch.optim.SGD(parameters, lr=1.0), {}, LossScale(None)), 0, 1, [])
    assert page.norms().tolist() == pytest.approx([3**0.5, 0.0, 3**0.5, 0.0])


def test_sparse_gradients_are_coalesced_and_shared() -> None:
    p = torch.nn.Parameter(torch.zeros(4, 2))
    index, values = torch.tensor([[1, 1, 3]]), torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    p.grad = torch.sparse_coo_tensor(index, values, (4, 2), check_invariants=True)
    page = Page(OptimizerView(0, torch.optim.SGD([p], lr=1.0), {}, LossScale(None)), 0, 1, [])
    assert page.norms().tolist() == [5.0]
    assert not p.grad.is_coalesced(), "reading changes nothing"
    page.writable()[0].mul_(2)
    assert float(p.grad.to_dense().norm()) == 10.0
    assert page.values()[0].norm() == 10.0


def test_a_view_sees_parameters_that_were_added() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = torch.optim.SGD([first], lr=1.0)
    view = OptimizerView(0, optimizer, {id(first): "first", id(second): "second"}, LossScale(None))
    assert not view.stale
    optimizer.add_param_group({"params": [second]})
    assert view.stale
    view.refresh()
    assert view.names == ["first", "second"]
    assert view.keys("a/") == ["a/first", "a/second"]


def test_the_total_norm_is_computed_once_and_the_host_knows_from_it_whether_gradients_are_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    totals = []
    real = logbook.total_norm
    monkeypatch.setattr(logbook, "total_norm", lambda *given: totals.append(1) or real(*given))
    for spoilt in (1.0, float("nan"), float("inf")):
        w, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
        w.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0 * spoilt])
        page = Page(OptimizerView(0, torch.optim.SGD([w, b], lr=1.0), {}, LossScale(None)), 0, 1, [])
        assert page.known_finite() == (spoilt == 1.0)
        if spoilt == 1.0:
            assert page.total().tolist() == 13.0
    assert len(totals) == 3


def test_what_the_host_cannot_read_at_once_is_not_known_to_be_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "value_on_host", lambda value: None)
    w = torch.zeros(2, requires_grad=True)
    w.grad = torch.ones(2)
    page = Page(OptimizerView(0, torch.optim.SGD([w], lr=1.0), {}, LossScale(None)), 0, 1, [])
    assert not page.known_finite()
