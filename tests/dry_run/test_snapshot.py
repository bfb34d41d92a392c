"""Everything is put back: compared with pickle's own picture of the object graph, which knows nothing of ours."""

from __future__ import annotations

import array
import functools
import gc
import itertools
import random
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler
from torch.utils.tensorboard import SummaryWriter

from lightning_tricks.dry_run.places import Limits
from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.snapshot import Snapshot
from lightning_tricks.errors import NotRestorableError
from tests.dry_run.problems import picture

Pair = namedtuple("Pair", ["left", "right"])


@dataclass(slots=True)
class Slotted:
    weight: Any
    count: int = 0


@dataclass
class Box:
    weight: Any
    items: list[Any] = field(default_factory=list)


class Mangled:
    __slots__ = ("__hidden", "shown")

    def __init__(self) -> None:
        self.__hidden, self.shown = 1, [1]

    def work(self) -> None:
        self.__hidden += 1
        self.shown = [2]


class Environment:
    """As in reinforcement learning: plain attributes and a generator of its own."""

    def __init__(self) -> None:
        self.state, self.np_random = numpy.zeros(4), numpy.random.default_rng(0)
        self.steps, self.trajectory = 0, []

    def step(self) -> None:
        self.state = self.state + self.np_random.normal(size=4)
        self.steps += 1
        self.trajectory.append(self.state)


class History(list[Any]):
    def __init__(self, name: str, *values: Any) -> None:
        super().__init__(values)
        self.name = name


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.randn(3))


def holding(**attributes: Any) -> nn.Module:
    module = nn.Linear(2, 2)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def large() -> nn.Module:
    """Parameters above the size that is copied at once, frozen and not."""
    module = nn.Linear(600, 600)
    module.teacher = nn.Linear(600, 600).requires_grad_(False)
    return module


def momentum(module: Any, how: str) -> None:
    for a, b in zip([module.weight, module.bias], module.teacher.parameters(), strict=True):
        with torch.no_grad():
            if how == "in place":
                b.mul_(0.9).add_(a, alpha=0.1)
            elif how == "data in place":
                b.data.mul_(0.9).add_(a.data)
            elif how == "data swapped":
                b.data = b.data * 0.9 + a.data * 0.1
            elif how == "copied":
                b.copy_(a)
            elif how == "swapped":
                a.data, b.data = b.data, a.data
            elif how == "through a view":
                b.detach().view(-1)[::2] = 7.0
            elif how == "foreach":
                torch._foreach_mul_([b], 0.5)
            else:
                torch.mul(a, 2, out=b)


def closure() -> Callable[[], int]:
    count, seen = 0, []

    def tick() -> int:
        nonlocal count
        count += 1
        seen.append(count)
        return count

    return tick


def with_default(values: list[int] = [1]) -> None:  # noqa: B006
    values.append(2)


HOW = ("in place", "data in place", "data swapped", "copied", "swapped", "through a view", "foreach", "out")
KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a recurrent network": (
        lambda: nn.LSTM(3, 4, 2, bidirectional=True),
        lambda m: [m(torch.randn(2, 1, 3))[0].sum().backward(), m.flatten_parameters(), m.weight_hh_l0.data.mul_(2)],
    ),
    "parameters in a list": (lambda: holding(held=[parameter()]), lambda m: m.held.append(parameter())),
    "parameters in a dict": (lambda: holding(held={"a": parameter()}), lambda m: m.held.pop("a")),
    "parameters in a tuple": (lambda: holding(held=(parameter(),)), lambda m: m.held[0].data.add_(1)),
    "parameters in a dataclass": (lambda: holding(held=Box(parameter())), lambda m: m.held.items.append(1)),
    "parameters in slots": (lambda: holding(held=Slotted(parameter())), lambda m: setattr(m.held, "weight", 1)),
    "parameters in a named tuple": (lambda: holding(held=Pair(parameter(), [])), lambda m: m.held.right.append(1)),
    "a slot that is deleted": (lambda: holding(held=Slotted(1)), lambda m: delattr(m.held, "count")),
    "private slots": (lambda: holding(held=Mangled()), lambda m: m.held.work()),
    "a number": (lambda: holding(count=0), lambda m: setattr(m, "count", m.count + 1)),
    "a new attribute": (lambda: holding(), lambda m: setattr(m, "cache", torch.ones(2))),
    "a deleted attribute": (lambda: holding(cache=1), lambda m: delattr(m, "cache")),
    "a new submodule": (lambda: holding(), lambda m: setattr(m, "more", nn.Linear(1, 1))),
    "a replaced submodule": (lambda: holding(part=nn.Linear(1, 1)), lambda m: setattr(m, "part", nn.Linear(2, 2))),
    "a replaced parameter": (lambda: holding(), lambda m: setattr(m, "weight", parameter())),
    "a new hook": (lambda: holding(), lambda m: m.register_forward_hook(lambda *_: None)),
    "a replaced buffer": (
        lambda: nn.BatchNorm1d(3),
        lambda m: [m(torch.randn(4, 3)), setattr(m, "running_mean", torch.ones(3))],
    ),
    "a queue as tensor": (lambda: holding(queue=torch.zeros(4)), lambda m: m.queue[1:3].fill_(7.0)),
    "a queue as array": (lambda: holding(queue=numpy.zeros((4, 2))), lambda m: m.queue.__setitem__(1, 7.0)),
    "an array of objects": (
        lambda: holding(queue=numpy.array([[1], "two", None], dtype=object)),
        lambda m: [m.queue[0].append(2), m.queue.__setitem__(2, 3)],
    ),
    "a deque": (lambda: holding(queue=deque([1, [2]], maxlen=2)), lambda m: [m.queue[1].append(3), m.queue.append(4)]),
    "a set": (lambda: holding(seen={1, 2}), lambda m: [m.seen.add(3), m.seen.discard(1)]),
    "a defaultdict": (lambda: holding(table=defaultdict(list, {"a": [1]})), lambda m: m.table["b"].append(2)),
    "an ordered dict": (lambda: holding(table=OrderedDict(a=1, b=2)), lambda m: m.table.move_to_end("a")),
    "a list of ones own class": (
        lambda: holding(held=History("loss", 1, [2])),
        lambda m: [m.held[1].append(3), m.held.append(4), setattr(m.held, "name", "other")],
    ),
    "a bytearray": (lambda: holding(held=bytearray(b"abc")), lambda m: m.held.extend(b"d")),
    "an array.array": (lambda: holding(held=array.array("f", [1.0])), lambda m: m.held.append(2.0)),
    "a generator of torch": (
        lambda: holding(noise=torch.Generator().manual_seed(1)),
        lambda m: torch.randn(3, generator=m.noise),
    ),
    "a generator of numpy": (lambda: holding(noise=numpy.random.default_rng(1)), lambda m: m.noise.random(3)),
    "Philox": (
        lambda: holding(noise=numpy.random.Generator(numpy.random.Philox(1))),
        lambda m: m.noise.random(3, dtype=numpy.float32),
    ),
    "SFC64": (
        lambda: holding(noise=numpy.random.Generator(numpy.random.SFC64(1))),
        lambda m: m.noise.integers(9, size=3),
    ),
    "a RandomState": (lambda: holding(noise=numpy.random.RandomState(1)), lambda m: m.noise.randn(3)),
    "a random.Random": (lambda: holding(noise=random.Random(1)), lambda m: m.noise.gauss(0, 1)),
    "an environment": (lambda: holding(environment=Environment()), lambda m: m.environment.step()),
    "a counter on a submodule": (
        lambda: nn.Sequential(holding(count=0, log=[])),
        lambda m: [setattr(m[0], "count", 1), m[0].log.append(1)],
    ),
    "modes": (lambda: nn.Sequential(nn.Dropout()), lambda m: m.eval()),
    "gradients that are asked for": (lambda: holding(), lambda m: m.bias.requires_grad_(False)),
    "gradients": (lambda: holding(), lambda m: m(torch.ones(1, 2)).sum().backward()),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        lambda m: [m(torch.ones(1, 2)).sum().backward(), m.parametrizations.weight.original0.data.mul_(2)],
    ),
    "spectral norm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
        lambda m: m(torch.ones(1, 2)),
    ),
    "a parametrization that is taken away": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        lambda m: nn.utils.parametrize.remove_parametrizations(m, "weight"),
    ),
    "tied weights": (
        lambda: (lambda m: setattr(m[1], "weight", m[0].weight) or m)(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))),
        lambda m: setattr(m[1], "weight", parameter()),
    ),
    "an expanded tensor": (
        lambda: holding(wide=torch.ones(1).expand(4)),
        lambda m: m.wide.data_ptr() and m.wide[:1].add_(1),
    ),
    "a sparse tensor": (
        lambda: holding(held=torch.eye(3).to_sparse()),
        lambda m: m.held.add_(torch.eye(3).to_sparse()),
    ),
    "a compressed sparse tensor": (
        lambda: holding(held=torch.eye(3).to_sparse_csr()),
        lambda m: m.held.values().fill_(5.0),
    ),
    "half precision": (lambda: holding(), lambda m: m.half()),
    "a resized tensor": (lambda: holding(held=torch.ones(2)), lambda m: m.held.resize_(50).fill_(3.0)),
    "a partial": (lambda: holding(call=functools.partial(print, [1])), lambda m: m.call.args[0].append(2)),
    "a bound method": (lambda: holding(call=Environment().step), lambda m: m.call()),
    **{
        f"a large teacher, {how}": (large, lambda m, how=how: momentum(m, how))  # type: ignore[misc]
        for how in HOW
    },
}


def identities(module: nn.Module) -> list[int]:
    return [id(x) for m in module.modules() for x in [m, *m.__dict__.values(), *m._parameters.values()]]


def gradients(module: nn.Module) -> list[Any]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def versions(module: nn.Module) -> list[int]:
    return [t._version for t in [*module.parameters(), *module.buffers()]]


@pytest.mark.filterwarnings("ignore:.*Sparse:UserWarning")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_put_back(kind: str, steps: bool, times: int) -> None:
    make, work = KINDS[kind]
    module = make()
    before, held, grads, numbers = picture(module), identities(module), gradients(module), versions(module)
    probe = picture(make())
    snapshot = Snapshot(Roots({"module": module}), steps=steps)
    for _ in range(times):
        with snapshot:
            work(module)
        assert picture(module) == before
        assert identities(module) == held
        assert versions(module) == numbers
        assert [x is None for x in gradients(module)] == [x is None for x in grads]
        assert snapshot.damage() == []
    assert len(probe) > 0


@pytest.mark.filterwarnings("ignore:.*Sparse:UserWarning")
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("gradients", "gradients that are asked for")])
def test_each_kind_would_be_seen(kind: str) -> None:
    """The oracle is not blind: without a snapshot the work changes the picture, or which objects are there."""
    make, work = KINDS[kind]
    module = make()
    before = picture(module), identities(module), versions(module)
    work(module)
    assert (picture(module), identities(module), versions(module)) != before


def test_a_closure_and_a_default_value() -> None:
    module = holding(tick=closure(), call=with_default)
    with Snapshot(Roots({"module": module})):
        assert [module.tick(), module.tick()] == [1, 2]  # type: ignore[operator]
        module.call()  # type: ignore[operator]
    assert module.tick() == 1  # type: ignore[operator]
    assert with_default.__defaults__ == ([1],)


def test_all_global_generators() -> None:
    draws = []
    snapshot = Snapshot(Roots())
    for _ in range(2):
        draws.append((random.random(), float(numpy.random.rand()), float(torch.rand(1)), random.gauss(0, 1)))
        snapshot.restore()
    assert draws[0] == draws[1]


@pytest.mark.parametrize("kind", ["sgd", "adamw", "adamw fused", "lr as tensor"])
@pytest.mark.parametrize("stepped_before", [False, True])
def test_an_optimizer(kind: str, stepped_before: bool) -> None:
    module = nn.Linear(3, 3)
    optimizer: Any = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
        "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        "lr as tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1), foreach=False),
    }[kind](module.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step() -> None:
        optimizer.zero_grad()
        module(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()

    if stepped_before:
        step()
    before, members = picture(optimizer.state_dict()), [id(p) for p in optimizer.state]
    weights = [p.detach().clone() for p in module.parameters()]
    snapshot = Snapshot(Roots({"module": module}, {"optimizer": optimizer, "schedulers": [scheduler]}), steps=True)
    for _ in range(2):
        with snapshot:
            step()
            step()
            optimizer.param_groups[0]["initial_lr"] = 7.0
            optimizer.add_param_group({"params": [parameter()]})
            optimizer.register_step_post_hook(lambda *_: None)
        assert picture(optimizer.state_dict()) == before
        assert [id(p) for p in optimizer.state] == members
        assert all(torch.equal(p, w) for p, w in zip(module.parameters(), weights, strict=True))
        assert scheduler.last_epoch == int(stepped_before)
        assert not optimizer._optimizer_step_post_hooks
        assert snapshot.damage() == []


def test_a_scaler_also_before_its_first_use() -> None:
    weight = nn.Parameter(torch.ones(1))
    scaler, optimizer = (
        torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1),
        torch.optim.SGD([weight], lr=0.1),
    )
    with Snapshot(Roots({"weight": weight}, {"optimizer": optimizer, "scaler": scaler}), steps=True):
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 16.0
    assert scaler._scale is None
    assert scaler.get_scale() == 8.0
    assert weight.grad is None
    assert float(weight.detach()) == 1.0


class Own(Sampler[int]):
    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __iter__(self) -> Any:
        return iter([int(self.draw.random() * 20) for _ in range(20)])

    def __len__(self) -> int:
        return 20


class Shuffling(Sampler[int]):
    """Shuffles its own array in place, as chemprop's does."""

    def __init__(self) -> None:
        self.order, self.rng = numpy.arange(20), numpy.random.default_rng(0)

    def __iter__(self) -> Any:
        self.rng.shuffle(self.order)
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize("kind", ["shuffle", "weighted", "own python", "own numpy", "in place", "in a batch sampler"])
def test_samplers(kind: str) -> None:
    data = TensorDataset(torch.arange(20.0))
    generator = torch.Generator().manual_seed(3)
    make: dict[str, Any] = {
        "shuffle": lambda: DataLoader(data, 4, shuffle=True, generator=generator),
        "weighted": lambda: DataLoader(data, 4, sampler=WeightedRandomSampler([1.0] * 20, 20, generator=generator)),
        "own python": lambda: DataLoader(data, 4, sampler=Own(random.Random(3))),
        "own numpy": lambda: DataLoader(data, 4, sampler=Own(numpy.random.default_rng(3))),
        "in place": lambda: DataLoader(data, 4, sampler=Shuffling()),
        "in a batch sampler": lambda: DataLoader(
            data, batch_sampler=torch.utils.data.BatchSampler(RandomSampler(data, generator=generator), 4, False)
        ),
    }
    loader = make[kind]()
    with Snapshot(Roots(data={"loader": loader})):
        first = [b[0].tolist() for b in loader]
        assert [b[0].tolist() for b in loader] != first
    assert [b[0].tolist() for b in loader] == first


def test_a_data_set_that_caches_and_draws() -> None:
    class Data(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.cache: dict[int, float] = {}
            self.rng = random.Random(1)

        def __getitem__(self, index: int) -> float:
            return self.cache.setdefault(index, self.rng.random())

    data = Data()
    with Snapshot(Roots(data={"loader": DataLoader(data)})):
        first = [data[0], data[1]]
    assert data.cache == {}
    assert [data[0], data[1]] == first


# -- what cannot be put back ------------------------------------------------------------------------------------------


def generator_in_progress() -> Any:
    made = (i for i in range(3))
    next(made)
    return made


def thread() -> Any:
    event = threading.Event()
    made = threading.Thread(target=event.wait, daemon=True)
    made.start()
    made.event = event  # type: ignore[attr-defined]
    return made


OBSTACLES: dict[str, tuple[Callable[[], Any], str, Callable[[Any], Any]]] = {
    "a file": (
        lambda: tempfile.TemporaryFile("w"),  # noqa: SIM115
        r"module\.held is an open file",
        lambda f: f.close(),
    ),
    "a socket": (socket.socket, r"module\.held is a socket", lambda s: s.close()),
    "an iterator": (lambda: iter([1, 2]), r"module\.held is an iterator in progress", lambda _: None),
    "a counter": (itertools.count, r"module\.held is an iterator in progress", lambda _: None),
    "a loader's iterator": (lambda: iter(DataLoader([1, 2])), "an iterator in progress", lambda _: None),
    "a generator": (generator_in_progress, r"module\.held is a generator in progress", lambda g: g.close()),
    "a thread": (thread, r"module\.held is a running thread", lambda t: (t.event.set(), t.join())),
    "a process": (
        lambda: subprocess.Popen([sys.executable, "-c", ""]),
        r"module\.held is a process",
        lambda p: p.wait(),
    ),
    "a writer of TensorBoard": (
        lambda: SummaryWriter("."),
        "is a writer of TensorBoard files",
        lambda w: w.close(),
    ),
    "an object of another language": (
        lambda: __import__("_sqlite3").connect(":memory:"),
        r"module\.held is a sqlite3\.Connection, whose state is kept outside of Python",
        lambda c: c.close(),
    ),
}


@pytest.mark.parametrize("kind", OBSTACLES)
@pytest.mark.parametrize("where", ["on the module", "deep inside"])
def test_what_cannot_be_put_back_is_named(kind: str, where: str) -> None:
    make, said, close = OBSTACLES[kind]
    held = make()
    if where == "on the module":
        module = holding(held=held)
    else:
        module = nn.Sequential(holding(table={"x": [Box(held)]}))
        said = r"module\.0\.table\['x'\]\[0\]\.weight.* is " + said.split("is ", 1)[-1]
    try:
        with pytest.raises(NotRestorableError, match=said):
            Snapshot(Roots({"module": module}))
    finally:
        close(held)


def test_what_is_too_large_is_named() -> None:
    module = holding(buffer=list(map(list, [[1]] * 5000)))
    with pytest.raises(NotRestorableError, match=r"module\.buffer is too large to be looked through \(5,000 items\)"):
        Snapshot(Roots({"module": module}), limits=Limits(objects=2000))
    module = holding(memory=numpy.zeros(2**18))
    with pytest.raises(NotRestorableError, match=r"the largest is module\.memory \(0\.00 GiB\)"):
        Snapshot(Roots({"module": module}), max_bytes=2**20)
    with pytest.raises(NotRestorableError, match=r"the largest is module\.weight"):
        Snapshot(Roots({"module": nn.Linear(600, 600)}), steps=True, max_bytes=2**20)
    Snapshot(Roots({"module": nn.Linear(600, 600)}), max_bytes=2**20)  # (not copied, but watched)


def test_in_data_files_and_handles_are_read_again_by_position() -> None:
    class Data(torch.utils.data.Dataset[Any]):
        def __init__(self, file: Any) -> None:
            self.file, self.rows = file, list(range(100_000))

        def __getitem__(self, index: int) -> Any:
            return self.file.seek(index)

    with open(__file__) as file:
        module = holding(data=Data(file))
        Snapshot(Roots({"module": module}, data={"loader": DataLoader(Data(file))}))


def test_what_a_dry_run_only_reads_is_not_copied() -> None:
    module = nn.Linear(600, 600)
    module.teacher = nn.Linear(600, 600).requires_grad_(False)
    module.data = TensorDataset(torch.zeros(2**19))
    weights = 4 * (600 * 600 + 600)
    looking = Snapshot(Roots({"module": module}))
    with looking:
        module(torch.ones(1, 600))
    assert looking.nbytes == 2 * 4 * 600  # the biases
    stepping = Snapshot(Roots({"module": module}), steps=True)
    assert stepping.nbytes == weights + 4 * 600
    with looking:
        module.teacher.weight.data.mul_(2)
    assert looking.nbytes == 2 * 4 * 600 + 4 * 600 * 600
    held = Snapshot(Roots({"module": module}), watch=False)
    held.note_checksums()
    with torch.no_grad():
        module.teacher.weight.mul_(2)
    assert len(held.written()) == 1


def test_damage_is_named() -> None:
    """A write past torch's dispatcher, to a tensor that was not copied, shows in its checksum."""
    module = nn.Linear(600, 600)
    numbers = module.weight.detach().numpy()
    snapshot = Snapshot(Roots({"module": module}))
    with snapshot:
        numbers[:] = numpy.roll(numbers, 1, axis=0)
    assert snapshot.damage() == ["module.weight"]


def test_a_graph_that_waits_for_its_backward_pass_stays_valid() -> None:
    """Values and versions are those that autograd saw."""
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    x = torch.randn(8, 4)
    loss = net(x).sum()
    expected = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    with Snapshot(Roots({"module": net})), torch.no_grad():
        net(torch.randn(8, 4))
        for p in net.parameters():
            p.add_(1)
    found = torch.autograd.grad(loss, list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_lazy_module_is_lazy_again() -> None:
    net = nn.Sequential(nn.LazyLinear(2))
    with Snapshot(Roots({"module": net})):
        net(torch.ones(1, 3))
        assert type(net[0]) is nn.Linear
    assert type(net[0]) is nn.LazyLinear and isinstance(net[0].weight, nn.UninitializedParameter)
    net(torch.ones(1, 5))
    assert net[0].weight.shape == (2, 5)


class Counting(nn.Module):  # (outside of its test: torch.jit reads the source of what encloses a class)
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(2, 2), 0
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.mean = self.mean + 1
        return self.linear(x)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module() -> None:
    module: Any = torch.jit.script(Counting())
    mean = module.mean
    snapshot = Snapshot(Roots({"module": module}))
    with snapshot:
        module(torch.ones(1, 2))
        assert module.count == 1 and float(module.mean[0]) == 1.0
    assert module.count == 0
    assert module.mean is mean and float(mean[0]) == 0.0
    assert snapshot.damage() == []


def test_an_exception_inside_puts_everything_back_too() -> None:
    module = holding(count=0)
    with pytest.raises(ValueError), Snapshot(Roots({"module": module})):
        module.count = 1
        raise ValueError
    assert module.count == 0


# -- globals ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import random, torch
rng, table, calls = random.Random(3), {}, 0
def helper():
    global calls
    calls += 1
    return rng.random()
class Net(torch.nn.Module):
    shared, total = [], 0
    def forward(self):
        table[calls] = helper()
        Net.total += 1
        self.shared.append(1)
        return table
"""


def test_globals_that_the_users_classes_name() -> None:
    script = types.ModuleType("a_users_script")
    sys.modules["a_users_script"] = script
    try:
        exec(SCRIPT, vars(script))
        net = script.Net()
        with Snapshot(Roots({"module": net})):
            first = dict(net())
        assert (script.table, script.calls, script.Net.total, script.Net.shared) == ({}, 0, 0, [])
        assert net() == first
    finally:
        del sys.modules["a_users_script"]


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_does_not_run_in_a_snapshot_and_is_left_as_it_was(collects: bool) -> None:
    net = nn.Sequential(*[nn.Linear(2, 2) for _ in range(300)])
    runs: list[str] = []
    before, thresholds = gc.isenabled(), gc.get_threshold()
    gc.callbacks.append(lambda phase, info: runs.extend([phase] * (phase == "start")))
    try:
        gc.set_threshold(100)
        (gc.enable if collects else gc.disable)()
        runs.clear()
        with Snapshot(Roots({"module": net})) as snapshot:
            inside = len(runs)
            assert gc.isenabled() == collects, "the user's code runs as it always does"
        assert snapshot.damage() == [] and gc.isenabled() == collects
    finally:
        gc.callbacks.pop()
        gc.set_threshold(*thresholds)
        (gc.enable if before else gc.disable)()
    assert inside <= 3, "one before and one after each of the parts; each of its 300 layers would make one"


def test_the_garbage_collector_runs_again_after_a_refusal() -> None:
    assert gc.isenabled()
    with pytest.raises(NotRestorableError):
        Snapshot(Roots({"module": [iter([1])]}))
    assert gc.isenabled()
