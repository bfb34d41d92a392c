from __future__ import annotations

import pytest
import torch

from lightning_tricks import AdaGC, AutoClip, ClipNorm, TrickError, ZClip
from lightning_tricks.gradients.clipper import Clipper
from lightning_tricks.optimizer_step.gradient_writer import GradientWriter
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale

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
        clipper.clip(page, page.norms(), page.total(), writer)


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


def test_a_clipper_fits_the_parameters_it_was_made_for_and_no_others_of_their_number() -> None:
    v = view()
    clipper = Clipper(AdaGC(), "model", None, v)
    assert clipper.fits(v)
    v.refresh()
    assert not clipper.fits(v), "looked at again, since others may be there"
    again = clipper.renewed(v)
    assert again.fits(v) and not again.fits(view()), "as many of another optimizer"


@pytest.mark.parametrize("per", ["model", "layer"])
def test_a_state_of_zclip_that_holds_a_variance_goes_on_as_if_it_held_the_deviation(per: str) -> None:
    v = view()
    new = Clipper(ZClip(warmup=2), per, None, v)
    for scale in (1.0, 1.1, 0.9):
        v.parameters[0].grad.mul_(scale)
        clip(new, v, 1)
    now = new.state()
    rule = now["rule_state"]
    old = {"version": 1, "count": rule["count"], "mean": rule["mean"], "var": rule["std"].square()}
    other = Clipper(ZClip(warmup=2), per, None, v)
    other.load({**now, "rule_state": old}, CPU)
    got = other.state()["rule_state"]
    assert got["version"] == 2 and got.keys() == rule.keys()
    torch.testing.assert_close(got["std"], rule["std"])
    bad = {**old, "var": -torch.ones_like(old["var"])}
    with pytest.raises(TrickError, match="Resume with the same model and rule"):
        other.load({**now, "rule_state": bad}, CPU)


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
