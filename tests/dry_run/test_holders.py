"""Holders: whoever keeps a tensor is named, wherever it stands, and looking changes nothing."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks.dry_run.holders import take_census

KEPT: list[Tensor] = []
Pair = namedtuple("Pair", "x y")


@dataclass
class Box:
    kept: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    kept: list[Any] = field(default_factory=list)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def out(self) -> Tensor:
        x: Tensor = self.net(torch.ones(2, 4))
        return x


class Global(Net):
    def forward(self) -> None:
        KEPT.append(self.out())


def closure(kept: list[Tensor]) -> Any:
    def remember(x: Tensor) -> None:
        kept.append(x)

    return remember


def graphs(module: nn.Module) -> dict[str, float]:
    return {name: h.graphs for name, h in take_census({"module": module}).holdings.items() if h.graphs}


# what is set on the module -> the name under which it is found
PLACES: dict[str, Any] = {
    "module.last": lambda m: vars(m).update(last=m.out()),
    "module.losses": lambda m: vars(m).update(losses=[m.out()]),
    "module.by_step": lambda m: vars(m).update(by_step={"a": {"b": [m.out()]}}),
    "module.ordered": lambda m: vars(m).update(ordered=OrderedDict(a=m.out())),
    "module.pairs": lambda m: vars(m).update(pairs=[Pair(m.out().detach(), m.out())]),
    "module.queue": lambda m: vars(m).update(queue=deque([m.out()])),
    "module.box.kept": lambda m: vars(m).update(box=Box([m.out()])),
    "module.slotted.kept": lambda m: vars(m).update(slotted=Slotted([m.out()])),
    "module.user.data": lambda m: vars(m).update(user=UserDict(a=m.out())),
    "module.net.0.cache": lambda m: vars(m.net[0]).update(cache=[m.out()]),
    "module.remember, variable 'kept'": lambda m: vars(m).update(remember=closure([m.out()])),
    "module.partial": lambda m: vars(m).update(partial=functools.partial(closure([]), m.out())),
    "module.running": lambda m: m.register_buffer("running", m.out()),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_tensor_with_its_graph_is_found_in(name: str) -> None:
    module = Net()
    PLACES[name](module)
    assert graphs(module) == {name: 1.0}


def test_a_global_list_is_found_by_the_code_that_names_it() -> None:
    module = Global()
    module.forward()
    assert graphs(module) == {f"{__name__}.KEPT": 1.0}
    KEPT.clear()
    assert graphs(module) == {}


def test_local_variables_in_an_exceptions_traceback_are_found() -> None:
    module: Any = Net()

    def fails() -> None:
        hidden = module.out()
        raise ValueError(f"no {hidden.shape}")

    module.errors = []
    try:
        fails()
    except ValueError as error:
        module.errors.append(error)
    found = take_census({"module": module}).holdings["module.errors"]
    assert (found.graphs, found.traceback) == (1.0, True)


def test_parameters_and_their_gradients_are_counted_and_kept_by_nobody() -> None:
    module = Net()
    module.out().sum().backward()
    census = take_census({"module": module})
    assert census.holdings == {}
    assert (census.tensors, census.nbytes) == (4, 2 * 4 * (16 + 4))


def test_bytes_are_those_of_the_storages_each_once() -> None:
    module: Any = Net()
    x = torch.zeros(100, 10)
    module.kept = [x, x[:50], x.view(-1), torch.zeros(7, dtype=torch.float64)]
    found = take_census({"module": module}).holdings["module.kept"]
    assert (found.tensors, found.nbytes, found.elements) == (4, 4000 + 56, 1000)


def test_arrays_are_counted_by_the_memory_that_they_view() -> None:
    module: Any = Net()
    memory = numpy.zeros(1000)
    module.replay = [(memory[:10], 3), (memory[10:20], 4)]
    found = take_census({"module": module}).holdings["module.replay"]
    assert (found.arrays, found.nbytes, found.tensors) == (2, 8000, 0)


@pytest.mark.parametrize("make", [list, tuple, deque], ids=["list", "tuple", "deque"])
@pytest.mark.parametrize("size", [96, 97, 1000])
def test_of_a_large_container_a_sample_is_looked_at(make: Any, size: int) -> None:
    module: Any = Net()
    module.kept = make(torch.zeros(3) for _ in range(size))
    found = take_census({"module": module}).holdings["module.kept"]
    assert found.tensors == pytest.approx(size)
    assert found.nbytes == pytest.approx(12 * size)


def test_a_long_list_of_numbers_holds_nothing() -> None:
    module: Any = Net()
    module.history = [0.5] * 1_000_000
    module.by_step = dict.fromkeys(range(100_000), 0.5)
    assert take_census({"module": module}).holdings == {}


def test_the_graphs_of_a_holder_are_estimated_from_two() -> None:
    module: Any = Net()
    module.kept = [module.out().sum() for _ in range(50)]
    one: Any = Net()
    one.kept = [one.out().sum()]
    many, single = (take_census({"module": m}).holdings["module.kept"] for m in (module, one))
    assert single.nodes > 5
    assert many.nodes == pytest.approx(50 * single.nodes)
    assert many.nbytes == pytest.approx(50 * single.nbytes, rel=0.1)


def test_hooks_are_counted_by_module_and_by_tensor() -> None:
    module = Net()
    for _ in range(3):
        module.net[0].register_forward_hook(lambda *_: None)
    module.net[0].weight.register_hook(lambda g: g)
    found = {n: h.hooks for n, h in take_census({"module": module}).holdings.items() if h.hooks}
    assert found["module.net.0._forward_hooks"] == 3
    assert found["module.net.0.weight._backward_hooks"] == 1


def test_states_of_metrics_and_bounded_queues_are_told_apart() -> None:
    module: Any = Net()
    module.auroc = torchmetrics.CatMetric()
    module.auroc.update(torch.ones(3))
    module.recent = deque([torch.ones(1)], maxlen=10)
    found = take_census({"module": module}).holdings
    assert found["module.auroc.value"].metric and not found["module.recent"].metric
    assert found["module.recent"].bounded and not found["module.auroc.value"].bounded


def test_a_tensor_of_an_earlier_batch_is_recognised() -> None:
    module: Any = Net()
    batch = torch.ones(2, 3)
    module.seen, module.other = [batch], [torch.ones(2, 3)]
    found = take_census({"module": module}, earlier={id(batch)}).holdings
    assert (found["module.seen"].kept, found["module.other"].kept) == (1, 0)


def test_data_are_looked_into_too() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(100, 4)), batch_size=4)
    found = take_census({"module": Net()}, {"train_dataloader 0": loader}).holdings
    assert found["train_dataloader 0.dataset.tensors"].nbytes == 1600


def test_classes_of_their_own_making_are_not_asked() -> None:
    class Odd(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            raise AssertionError("asked")

        def __getitem__(self, i: Any) -> Any:
            raise AssertionError("asked")

        def __iter__(self) -> Any:
            raise AssertionError("asked")

    module: Any = Net()
    module.odd = Odd()
    list.append(module.odd, module.out())
    assert graphs(module) == {"module.odd": 1.0}


def test_looking_changes_nothing() -> None:
    module: Any = Net()
    module.out().sum().backward()
    module.losses, module.rng = [module.out()], torch.Generator()
    before = {k: copy.copy(v) for k, v in vars(module).items() if k != "losses"}
    state, draws = {k: v.clone() for k, v in module.state_dict().items()}, module.rng.get_state()
    versions = [t._version for t in [*module.parameters(), *module.losses]]
    take_census({"module": module})
    assert before.keys() == vars(module).keys() - {"losses"}
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert torch.equal(module.rng.get_state(), draws)
    assert versions == [t._version for t in [*module.parameters(), *module.losses]]


def test_a_closed_loop_of_references_ends() -> None:
    module: Any = Net()
    module.loop = [module.out()]
    module.loop.append(module.loop)
    assert graphs(module) == {"module.loop": 1.0}
