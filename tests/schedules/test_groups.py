from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks import LRSchedule, TrickError, UnsupportedError
from lightning_tricks.optimizer_step.logbook import OptimizerView
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.schedules.curves import Constant, Cosine
from lightning_tricks.schedules.groups import (
    GroupPlan,
    KnownGroup,
    known_groups,
    planned_group,
    recognised,
    refuse_copied_groups,
    refuse_unmatched,
)


def view_of(optimizer: Any, net: nn.Module) -> OptimizerView:
    return OptimizerView(0, optimizer, {id(p): name for name, p in net.named_parameters()}, LossScale(None))


def two_groups() -> tuple[nn.Module, Any]:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[1].parameters(), "weight_decay": 0.3}]
    return net, torch.optim.SGD(groups, lr=0.2)


def test_the_values_that_a_group_came_with_are_its_base() -> None:
    net, optimizer = two_groups()
    found = known_groups(LRSchedule().spec, view_of(optimizer, net), [])
    assert [(g.lr, g.weight_decay) for g in found] == [(0.1, 0.0), (0.2, 0.3)]


def test_a_rate_that_we_wrote_leaves_the_base_and_a_rate_of_the_users_becomes_it() -> None:
    net, optimizer = two_groups()
    view, spec = view_of(optimizer, net), LRSchedule().spec
    before = known_groups(spec, view, [])
    for group, known in zip(optimizer.param_groups, before, strict=True):
        group["lr"] = known.written = 0.01
    assert [g.lr for g in known_groups(spec, view, before)] == [0.1, 0.2]
    optimizer.param_groups[1]["lr"] = 0.7
    assert [g.lr for g in known_groups(spec, view, before)] == [0.1, 0.7]


def test_a_group_of_a_checkpoint_is_recognised_by_its_place_and_another_by_its_parameters() -> None:
    weight = torch.zeros(1)
    saved, ours = KnownGroup((), 0.5, 0.0), KnownGroup((weight,), 0.4, 0.0, written=0.25)
    assert recognised({"params": [], "lr": 1.0}, 0, [saved]) is saved
    assert recognised({"params": [weight], "lr": 0.25}, 1, [ours]) is ours, "it has moved"
    assert recognised({"params": [weight], "lr": 0.3}, 1, [ours]) is None
    assert recognised({"params": [torch.zeros(1)], "lr": 0.25}, 1, [ours]) is None


def test_later_patterns_win_and_factors_are_multiplied() -> None:
    overrides = {"a": 0.5, "weight": "x", "w": 0.1}
    plan = planned_group({**overrides, "weight": Cosine()}, ["a.weight"], "")  # type: ignore[arg-type]
    assert plan == GroupPlan(curve=1, factor=pytest.approx(0.05), matched=(0, 1, 2))
    assert planned_group({"a": Constant(), "b": Cosine()}, ["b"], "") == GroupPlan(curve=2, matched=(1,))
    assert planned_group({"a": 0.5}, ["b"], "") == GroupPlan()


def test_a_pattern_that_matches_a_part_of_a_group_is_refused_unless_it_means_the_groups_name() -> None:
    with pytest.raises(TrickError, match=r"matches 'a.weight' but not 'b.weight' of the same parameter group"):
        planned_group({"^a": 0.5}, ["a.weight", "b.weight"], "")
    assert planned_group({"^a": 0.5}, ["a.weight", "b.weight"], "a").factor == 0.5


def test_a_pattern_without_a_match_names_the_nearest_parameter_and_a_frozen_one_may_wait() -> None:
    net, optimizer = two_groups()
    view = view_of(optimizer, net)
    spec = LRSchedule(overrides={"^0.wieght": 0.1}).spec
    with pytest.raises(TrickError, match=r"the pattern matches no parameter. The nearest name is '0.weight'"):
        refuse_unmatched(spec, [known_groups(spec, view, [])], view)
    with pytest.raises(TrickError, match="Names are e.g. '0.weight'"):
        refuse_unmatched(LRSchedule(overrides={"qqqqqqqqqq": 0.1}).spec, [[KnownGroup((), 1.0, 0.0)]], view)
    refuse_unmatched(LRSchedule(overrides={"^0": 0.1}).spec, [[KnownGroup((), 1.0, 0.0)]], view)


def test_momentum_that_an_optimizer_does_not_have_is_refused() -> None:
    net = nn.Linear(2, 2)
    view = view_of(torch.optim.Adagrad(net.parameters()), net)
    with pytest.raises(TrickError, match="Adagrad has neither momentum nor betas"):
        known_groups(LRSchedule(momentum=(0.9, 0.8)).spec, view, [])


def test_an_optimizer_around_another_must_share_its_groups() -> None:
    net, optimizer = two_groups()
    outer = torch.optim.SGD(net.parameters(), lr=0.1)
    outer.inner = optimizer  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedError, match="SGD wraps SGD and keeps copies of its parameter groups"):
        refuse_copied_groups(view_of(outer, net))
    outer.param_groups = optimizer.param_groups
    refuse_copied_groups(view_of(outer, net))
