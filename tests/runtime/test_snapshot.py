from __future__ import annotations

import copy
import random
from collections import defaultdict, deque
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from lightning_tricks.runtime.snapshot import Snapshot, attributes, generator_states, random_numbers


class Busy(nn.Module):
    """Has everything that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("replaced", torch.zeros(2), persistent=False)
        self.count, self.history, self.table = 0, [1], defaultdict(list, {"a": [torch.ones(1)]})
        self.last, self.queue = torch.zeros(1), deque([1, 2], maxlen=2)

    def work(self) -> None:
        self.norm(self.linear(torch.randn(4, 3))).sum().backward()
        self.replaced = self.replaced + 1
        self.count += 1
        self.history.append(self.count)
        self.table["a"][0].add_(1)
        self.table["b"].append(2)
        self.last = self.last + 5
        self.queue.append(9)
        self.new = "new"
        self.eval()
        self.linear.bias.requires_grad_(False)


def everything(module: Busy) -> dict[str, Any]:
    plain = {k: copy.deepcopy(v) for k, v in vars(module).items() if not k.startswith("_")}
    return {
        **{k: v.clone() for k, v in module.state_dict().items()},
        **plain,
        "replaced": module.replaced.clone(),
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "required": [p.requires_grad for p in module.parameters()],
    }


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adamw", "adamw fused"])
@pytest.mark.parametrize("stepped_before", [False, True])
def test_everything_is_put_back_bit_for_bit(with_gradients: bool, kind: str, stepped_before: bool) -> None:
    module = Busy()
    parameters = list(module.parameters())
    optimizer: Any = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=torch.tensor(0.1), foreach=False),
        "adamw fused": lambda: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    }[kind]()
    if stepped_before:
        module.norm(module.linear(torch.randn(4, 3))).sum().backward()
        optimizer.step()
    if not with_gradients:
        optimizer.zero_grad()
    before, state = everything(module), copy.deepcopy(optimizer.state_dict())
    held, identity = [p.grad for p in parameters], [id(p) for p in parameters]
    snapshot = Snapshot(module, [optimizer], None, [])
    for _ in range(2):
        module.train()
        module.linear.bias.requires_grad_(True)
        module.work()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 7.0
        optimizer.param_groups[0]["initial_lr"] = 7.0
        snapshot.put_back()
        assert repr(everything(module)) == repr(before)
        after = everything(module)
        for name, value in before.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(after[name], value), name
        assert repr(optimizer.state_dict()) == repr(state)
        assert [id(p) for p in module.parameters()] == identity
        assert all(p.grad is g for p, g in zip(parameters, held, strict=True))


def test_a_scaler_is_put_back_also_before_its_first_use() -> None:
    weight = nn.Parameter(torch.ones(1))
    module = nn.Module()
    module.weight = weight
    scaler, optimizer = (
        torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1),
        torch.optim.SGD([weight], lr=0.1),
    )
    snapshot = Snapshot(module, [optimizer], scaler, [])
    scaler.scale(weight.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 16.0
    snapshot.put_back()
    assert scaler._scale is None
    assert scaler.get_scale() == 8.0
    assert weight.grad is None
    assert float(weight.detach()) == 1.0


def test_all_random_generators_are_put_back() -> None:
    put_back = random_numbers()
    draws = [(random.random(), float(numpy.random.rand()), float(torch.rand(1))) for _ in range(2)]
    put_back()
    assert draws[0] == (random.random(), float(numpy.random.rand()), float(torch.rand(1)))


@pytest.mark.parametrize("kind", ["shuffle", "weighted", "own python", "own numpy", "in a batch sampler"])
def test_generators_of_samplers_are_put_back(kind: str) -> None:
    data = TensorDataset(torch.arange(20.0))

    class Own(torch.utils.data.Sampler[int]):
        def __init__(self, draw: Any) -> None:
            self.draw = draw

        def __iter__(self) -> Any:
            return iter([int(self.draw.random() * 20) for _ in range(20)])

        def __len__(self) -> int:
            return 20

    generator = torch.Generator().manual_seed(3)
    make: dict[str, Any] = {
        "shuffle": lambda: DataLoader(data, 4, shuffle=True, generator=generator),
        "weighted": lambda: DataLoader(data, 4, sampler=WeightedRandomSampler([1.0] * 20, 20, generator=generator)),
        "own python": lambda: DataLoader(data, 4, sampler=Own(random.Random(3))),
        "own numpy": lambda: DataLoader(data, 4, sampler=Own(numpy.random.default_rng(3))),
        "in a batch sampler": lambda: DataLoader(
            data, batch_sampler=torch.utils.data.BatchSampler(RandomSampler(data, generator=generator), 4, False)
        ),
    }
    loader = make[kind]()
    put_back = generator_states(loader)
    first = [b[0].tolist() for b in loader]
    assert [b[0].tolist() for b in loader] != first
    put_back()
    assert [b[0].tolist() for b in loader] == first


def test_containers_keep_their_identity() -> None:
    module = Busy()
    history, table = module.history, module.table
    put_back = attributes([module])
    module.work()
    put_back()
    assert module.history is history and module.table is table
    assert history == [1] and dict(table) == {"a": [torch.ones(1)]}


def test_containers_of_ones_own_kind_keep_their_kind_and_content() -> None:
    class History(list[Any]):
        def __init__(self, name: str, *values: Any) -> None:
            super().__init__(values)
            self.name = name

    class Seen(set[Any]):
        pass

    module = nn.Linear(1, 1)
    module.history, module.seen = History("loss", 1, [2]), Seen({1})  # type: ignore[assignment]
    history, seen = module.history, module.seen
    put_back = attributes([module])
    history[1].append(3)  # type: ignore[index,operator,union-attr]
    history.append(4)  # type: ignore[operator]
    seen.add(2)  # type: ignore[operator]
    put_back()
    assert module.history is history and history == [1, [2]] and history.name == "loss"
    assert module.seen is seen and seen == {1} and type(seen) is Seen
