from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.step_calls import Draws, Lookups

IDS = torch.tensor([[1, 2], [3, 0]])


def test_lookups_are_recorded_however_the_embedding_is_called() -> None:
    table = nn.Embedding(5, 3, padding_idx=0)
    with Lookups() as lookups:
        one, two = table(IDS), F.embedding(IDS + 1, table.weight)
        three = F.embedding(weight=table.weight, input=IDS, padding_idx=0, scale_grad_by_freq=True)
    assert [ids.tolist() for ids in lookups.found] == [IDS.tolist(), (IDS + 1).tolist(), IDS.tolist()]
    assert torch.equal(one, table.weight[IDS]) and torch.equal(two, table.weight[IDS + 1]) and torch.equal(one, three)


def test_only_the_lookup_that_is_named_is_changed_and_what_was_asked_for_is_recorded() -> None:
    table = nn.Embedding(5, 3)
    with Lookups(1, lambda ids: ids + 1) as lookups:
        one, two, three = table(IDS), table(IDS), table(IDS)
    assert torch.equal(one, table.weight[IDS]) and torch.equal(three, one)
    assert torch.equal(two, table.weight[IDS + 1])
    assert all(torch.equal(ids, IDS) for ids in lookups.found)


def every_way() -> list[Tensor]:
    torch.manual_seed(0)
    normal = torch.distributions.Normal(0.0, 1.0)
    return [
        torch.randn(4, 2),
        torch.randn_like(torch.zeros(4, 2)),
        torch.empty(4, 2).normal_(),
        torch.normal(torch.zeros(4, 2), torch.ones(4, 2)),
        normal.sample((4, 2)),
    ]


def test_normal_numbers_are_recorded_however_they_are_drawn_and_stay_what_they_are() -> None:
    usual = every_way()
    with Draws() as draws:
        seen = every_way()
        uniform = torch.rand(4, 2)
    assert all(torch.equal(a, b) for a, b in zip(usual, seen, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(usual, draws.found, strict=True))
    assert not any(torch.equal(uniform, draw) for draw in draws.found)


def test_a_changed_draw_leaves_the_others_as_they_are() -> None:
    usual = every_way()
    for at in range(len(usual)):
        with Draws(at, lambda noise: -noise) as draws:
            seen = every_way()
        assert all(torch.equal(a, -b if i == at else b) for i, (a, b) in enumerate(zip(seen, usual, strict=True)))
        assert all(torch.equal(a, b) for a, b in zip(draws.found, usual, strict=True))
