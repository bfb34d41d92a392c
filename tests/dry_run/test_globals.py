"""What a user's classes refer to outside of their instances: found in files that are written as scripts are."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.snapshot import Snapshot

SCRIPT = """
import random, itertools, torch
import numpy as np
rng = np.random.default_rng(0)
calls = 0
cache = {}
class Environment:
    episodes = 0
    def step(self):
        Environment.episodes += 1
        return rng.random()
environment = Environment()
log = open(__file__)
def augment(x):
    global calls
    calls += 1
    cache[calls] = x
    return x + environment.step()
def counting():
    count = 0
    def tick():
        nonlocal count
        count += 1
        return count
    return tick
class Net(torch.nn.Module):
    tick = staticmethod(counting())
    @property
    def noise(self): return rng.random()
    def forward(self, x):
        parts = [augment(v) for v in [x]]
        return parts[0] + self.noise, Net.tick(), log.name
unrelated = random.Random(0)
"""


@pytest.fixture
def script(monkeypatch: Any) -> Iterator[Any]:
    module = types.ModuleType("a_users_script")
    module.__file__ = __file__
    monkeypatch.setitem(sys.modules, "a_users_script", module)
    exec(compile(SCRIPT, __file__, "exec"), vars(module))
    yield module
    module.log.close()


def test_generators_counters_caches_environments_and_closures(script: Any) -> None:
    net = script.Net()
    rng, environment = script.rng, script.environment
    with Snapshot(Roots({"module": net})):
        first = net(1.0)
        script.unrelated.random()
    assert (script.calls, script.cache, script.Environment.episodes) == (0, {}, 0)
    assert script.rng is rng and script.environment is environment
    assert net(1.0) == first
    assert script.calls == 1


def test_what_no_class_of_the_module_names_is_left_alone(script: Any) -> None:
    import random

    with Snapshot(Roots({"module": script.Net()})):
        drawn = script.unrelated.random()
    assert drawn == random.Random(0).random() != script.unrelated.random()
