from __future__ import annotations

import pytest
import torch

from lightning_tricks import AutoClip, ClipNorm, TrickError
from lightning_tricks.gradients.clipper import Clipper
from lightning_tricks.runtime.gradient_writer import GradientWriter
from lightning_tricks.runtime.logbook import OptimizerView, Page
from lightning_tricks.runtime.scaler import LossScale

CPU = torch.device("cpu")


def view(n: int = 2) -> OptimizerView:
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(n)]
    for p in parameters:
        p.grad = torch.tensor([3.0, 4.0, 0.0])
    names = {id(p): f"p{i}" for i, p in enumerate(parameters)}
    return OptimizerView(0, torch.optim.SGD(parameters, lr=1.0), names, LossScale(None))


def clip(clipper: Clipper, v: OptimizerView, times: int) -> None:
    for _ in range(times):
        page, writer = Page(v, 0, 1, []), GradientWriter()
        clipper.clip(page, page.norms(), writer)


def test_statistics_are_the_same_however_often_they_are_asked_for() -> None:
    one, other, v = Clipper(ClipNorm(1.0), "layer", None, view()), Clipper(ClipNorm(1.0), "layer", None, view()), view()
    for _ in range(100):
        clip(one, v, 1)
        one.settle()
    clip(other, v, 100)
    assert one.total("updates") == other.total("updates") == 200
    assert one.percentiles(90.0) == other.percentiles(90.0) == {"p0": 5.0, "p1": 5.0}


def test_another_rule_keeps_the_statistics_and_begins_its_own_state() -> None:
    v = view()
    old, new = Clipper(AutoClip(50.0), "model", None, v), Clipper(AutoClip(10.0), "model", None, v)
    clip(old, v, 5)
    new.load(old.state(), CPU)
    assert new.total("updates") == 5
    assert int(new.state()["rule_state"]["seen"]) == 0


def test_other_parts_begin_anew_and_a_damaged_state_is_refused() -> None:
    v = view()
    old = Clipper(AutoClip(), "layer", None, v)
    clip(old, v, 5)
    other = Clipper(AutoClip(), "layer", None, view(3))
    other.load(old.state(), CPU)
    assert other.total("updates") == 0
    state = old.state()
    state["rule_state"]["ring"] = torch.zeros(7)
    with pytest.raises(TrickError, match="Resume with the same model and rule"):
        Clipper(AutoClip(), "layer", None, v).load(state, CPU)
