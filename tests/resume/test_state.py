from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from lightning_tricks.resume.state import (
    generator_states,
    gradients,
    put_generator_states,
    put_random_state,
    random_state,
)


def draw() -> list[float]:
    return [
        float(torch.rand(1)),
        random.random(),
        random.gauss(0, 1),
        float(numpy.random.randn()),
        float(torch.randn(1)),
    ]


def saved_and_loaded(state: Any, tmp_path: Path) -> Any:
    torch.save(state, tmp_path / "state.pt")
    return torch.load(tmp_path / "state.pt", weights_only=True)


def test_all_global_generators_go_on_where_they_were(tmp_path: Path) -> None:
    draw(), random.gauss(0, 1), numpy.random.randn()  # both keep a second normal number in store
    state = saved_and_loaded(random_state(), tmp_path)
    first = [draw() for _ in range(3)]
    draw()
    put_random_state(state)
    assert [draw() for _ in range(3)] == first


class Own:
    """A sampler with generators of every kind."""

    def __init__(self) -> None:
        self.python, self.old = random.Random(1), numpy.random.RandomState(2)
        self.new, self.torch = numpy.random.default_rng(3), torch.Generator().manual_seed(4)

    def __iter__(self) -> Any:
        numbers = [self.python.randrange(10), self.old.randint(10), self.new.integers(10)]
        return iter([int(n) for n in numbers] + torch.randint(10, (1,), generator=self.torch).tolist())

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: RandomSampler(range(20), generator=torch.Generator().manual_seed(1)),
        lambda: WeightedRandomSampler([0.1, 0.9, 0.5], 9, generator=torch.Generator().manual_seed(1)),
        lambda: SubsetRandomSampler(range(9), generator=torch.Generator().manual_seed(1)),
        Own,
    ],
)
def test_generators_of_samplers_go_on_where_they_were_wherever_they_hide(sampler: Any, tmp_path: Path) -> None:
    loader = DataLoader(list(range(20)), batch_size=2, sampler=sampler(), generator=torch.Generator().manual_seed(9))
    next(iter(loader))
    state = saved_and_loaded(generator_states([loader]), tmp_path)
    first = [batch.tolist() for batch in loader]
    list(loader)
    put_generator_states([loader], state)
    assert [batch.tolist() for batch in loader] == first


def test_generators_that_are_gone_or_new_are_left_alone() -> None:
    put_generator_states([DataLoader([1, 2])], {"0.sampler.generator": torch.Generator().get_state()})
    sampler = RandomSampler(range(5), generator=torch.Generator().manual_seed(1))
    put_generator_states([sampler], {})


def test_gradients_are_copies_by_name() -> None:
    net = nn.Linear(2, 1)
    assert gradients(net) == {}
    net(torch.ones(1, 2)).sum().backward()
    kept = gradients(net)
    net.zero_grad(set_to_none=False)
    assert {name: g.tolist() for name, g in kept.items()} == {"weight": [[1.0, 1.0]], "bias": [1.0]}
