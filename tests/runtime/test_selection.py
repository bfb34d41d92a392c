from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks import GradientMonitor, TrickError, UnsupportedError
from lightning_tricks.runtime.logbook import OptimizerView, Page
from lightning_tricks.runtime.scaler import LossScale
from lightning_tricks.runtime.selection import assign, check_patterns, parameter_names, plain_name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_are_those_of_the_uncompiled_model() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    compiled = torch.compile(model)
    assert set(parameter_names(compiled).values()) == {"0.weight", "0.bias"}
    assert plain_name("_orig_mod.a._orig_mod.b") == "a.b"
    assert plain_name("model._forward_module.x") == "model.x"


def test_groups_are_assigned_in_their_order() -> None:
    assert assign(["a.w", "b.w", "c.w"], {"last": "^c", "first": "^a"}, owner="X") == [1, -1, 0]


@pytest.mark.parametrize(
    ("groups", "error", "text"),
    [([], TypeError, "dict of str to str"), ({"a": 1}, TypeError, "dict of str to str"), ({}, ValueError, "at least one"),
     ({"": "x"}, ValueError, "at least one"), ({"a": "("}, ValueError, "no regular expression")],
)  # fmt: skip
def test_groups_of_a_wrong_form_are_refused(groups: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_patterns("X", "groups", groups)
    with pytest.raises(error, match=r"GradientMonitor\(groups="):
        GradientMonitor(groups=groups)


def test_complex_parameters_are_refused_by_name() -> None:
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UnsupportedError, match="'w' is complex"):
        OptimizerView(0, torch.optim.SGD([p], lr=1.0), {id(p): "w"}, LossScale(None))


def test_a_slot_is_written_once() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    page = Page(OptimizerView(0, torch.optim.SGD([p], lr=1.0), {}, LossScale(None)), 0, 1, [])
    page.write("x", 1)
    assert page.read("x", lambda: 2) == 1
    with pytest.raises(TrickError, match="'x' of attempt 1 was written before"):
        page.write("x", 3)


def test_parameters_without_gradient_have_norm_zero() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    for p in parameters[::2]:
        p.grad = torch.ones(3)
    page = Page(OptimizerView(0, torch.optim.SGD(parameters, lr=1.0), {}, LossScale(None)), 0, 1, [])
    assert page.norms().tolist() == pytest.approx([3**0.5, 0.0, 3**0.5, 0.0])
