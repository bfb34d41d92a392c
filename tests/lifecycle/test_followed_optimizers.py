from __future__ import annotations

import torch
from torch import nn

from lightning_tricks.lifecycle.followed_optimizers import FollowedOptimizers
from lightning_tricks.optimizer_step.loss_scale import LossScale


def optimizers(n: int) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1) for _ in range(n)]


def test_an_optimizer_that_stays_keeps_its_view_and_is_seen_once_at_each_step() -> None:
    seen: list[tuple[str, torch.optim.Optimizer]] = []
    followed = FollowedOptimizers(
        lambda view, o, *_: seen.append(("before", o)), lambda view, o, *_: seen.append(("after", view.optimizer))
    )
    one, two, three = optimizers(3)
    followed.exchange([one, two], {}, LossScale(None))
    kept = followed.views[0]
    gone, new = followed.exchange([one, three], {}, LossScale(None))
    assert followed.views == [kept, *new]
    assert [view.optimizer for view in gone] == [two] and [view.index for view in new] == [1]
    for optimizer in (one, two, three):
        optimizer.step()
    assert seen == [("before", one), ("after", one), ("before", three), ("after", three)]


def test_optimizers_that_changed_places_are_new_ones() -> None:
    seen: list[torch.optim.Optimizer] = []
    followed = FollowedOptimizers(lambda view, o, *_: seen.append(o), lambda *_: None)
    one, two = optimizers(2)
    followed.exchange([one, two], {}, LossScale(None))
    assert followed.are([one, two])
    assert not followed.are([two, one]) and not followed.are([one]) and not followed.are([one, two, one])
    gone, new = followed.exchange([two, one], {}, LossScale(None))
    assert len(gone) == len(new) == 2
    assert [view.index for view in followed.views] == [0, 1]
    one.step()
    two.step()
    assert seen == [one, two], "each is hooked once, whatever hooks there were at its former place"


def test_nothing_is_left_on_an_optimizer_after_the_run() -> None:
    followed = FollowedOptimizers(lambda *_: None, lambda *_: None)
    [one] = optimizers(1)
    before = len(one._optimizer_step_pre_hooks), len(one._optimizer_step_post_hooks)
    followed.exchange([one], {}, LossScale(None))
    view = followed.views[0]
    assert followed.view_of(one) is view
    assert followed.close() == [view]
    assert followed.views == [] and followed.view_of(one) is None
    assert (len(one._optimizer_step_pre_hooks), len(one._optimizer_step_post_hooks)) == before
