from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks import TrickError
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.sampler import Sampler


def attachment(net: nn.Module, heard: Any) -> Attachment:
    run: Any = SimpleNamespace(trainer=SimpleNamespace(lightning_module=net))
    return Attachment("Owner", run, heard, Sampler(1, 1))


def test_outputs_are_seen_without_gradients_while_they_are_heard_and_not_after_it_is_detached() -> None:
    net, seen, heard = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), [], [True]

    def see(output: Any) -> None:
        seen.append((tuple(output.shape), torch.is_grad_enabled()))

    to = attachment(net, lambda do: do() if heard[0] else None)
    to.watch(to.module("1", "layer"), see)
    net(torch.ones(4, 2))
    heard[0] = False
    net(torch.ones(5, 2))
    heard[0] = True
    to.detach()
    net(torch.ones(6, 2))
    assert seen == [((4, 3), False)] and not net[1]._forward_hooks


def test_a_name_that_is_not_there_is_refused_with_the_nearest() -> None:
    to = attachment(nn.Sequential(nn.Linear(2, 3)), lambda do: do())
    with pytest.raises(TrickError, match=r"Owner\(layer='01'\): there is no such module"):
        to.module("01", "layer")
    with pytest.raises(TrickError, match="there is no such module"):
        to.module("", "layer")


def test_globs_are_matched_against_plain_names() -> None:
    to = attachment(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), lambda do: do())
    assert to.matching(["*"])[-2:] == ["0", "1"] and to.hidden() == set()


def test_it_is_outdated_once_another_module_has_taken_the_place_of_a_watched_one_or_of_its_parent() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))
    to = attachment(net, lambda do: do())
    to.watch(to.module("1.1", "layer"), lambda output: None)
    net[0] = nn.Linear(2, 3)  # (nobody watches this one)
    assert not to.outdated
    kept, net[1] = net[1], nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    assert to.outdated
    net[1] = kept
    assert not to.outdated
    kept[1] = nn.Linear(3, 2)
    assert to.outdated
    to.detach()
    assert not to.outdated
