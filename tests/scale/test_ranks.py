"""The formulas of ``docs/scaling.md`` on up to 1,024 processes."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest
import torch

from lightning_tricks.resume import process_state
from lightning_tricks.resume.differences import difference, digests
from lightning_tricks.resume.state import random_state
from tests.distributed.counting import EVERY, made
from tests.distributed.test_scaling import MODELS, sizes
from tests.matrix import UNDER
from tests.scale.ranks import BATCH, counted, processes
from tests.scaling import SCALES, value

pytest.importorskip("torch.testing._internal.distributed.fake_pg")

WORLDS = (2, 1024)
TALKATIVE = [name for name, scale in SCALES.items() if scale.update or scale.logged]
ALONE = ("LRFinder", "SanityCheck")  # before the first step only; they refuse a strategy that they do not know
SILENT = [name for name in SCALES if name not in (*TALKATIVE, *UNDER, *ALONE)]


@functools.cache
def alone(world: int) -> Any:
    return counted([], world, *MODELS[0])[0]


def expected(name: str, world: int) -> list[tuple[int, int]]:
    size = {**sizes(1, *MODELS[0]), "n": BATCH, "B": BATCH * (4 * 64 + 8), "u": EVERY - 1, "R": world}
    parts = SCALES[name].update, (*SCALES[name].update, *SCALES[name].logged)
    return [(len(part), sum(value(formula, size) for formula in part)) for part in parts]


def check(names: list[str], world: int) -> None:
    found = counted([made(name) for name in names], world, *MODELS[0])[0].less(alone(world))
    wanted = [expected(name, world) for name in names]
    for got, i in ((found.update, 0), (found.logged, 1)):
        assert got[:2] == tuple(sum(row[i][part] for row in wanted) for part in range(2)), names


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("names", [*([name] for name in TALKATIVE), SILENT], ids=lambda names: names[0])
def test_collectives_of_an_update_and_of_a_check_do_not_grow_with_the_processes(names: list[str], world: int) -> None:
    check(names, world)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2**i for i in range(1, 11)])
def test_collectives_at_every_power_of_two(world: int) -> None:
    for names in (*([name] for name in TALKATIVE), SILENT):
        check(names, world)


@pytest.mark.parametrize("world", WORLDS)
def test_the_state_of_exact_resume_grows_by_some_bytes_a_process(world: int) -> None:
    own = {"now": random_state(), "began": {"random": random_state()}, "generators": {}, "batches": 3.0}
    with processes(world):
        state = process_state.gathered(own, world)
    assert process_state.num_processes(state) == world
    one = len(pickle.dumps({"ranks": [own]}))
    assert len(pickle.dumps(state)) - one < 8 * world + 64
    assert digests(process_state.of_rank(state, world - 1)) == digests(own)


def test_a_process_that_is_seeded_otherwise_gives_its_own_numbers_only() -> None:
    first = {
        "now": random_state(),
        "began": {"random": random_state()},
        "held": {"module": {"table": torch.ones(9999)}},
    }
    torch.manual_seed(1)
    other = {**first, "now": random_state(), "began": {"random": random_state()}}
    given = difference(digests(first), other)
    assert given["changed"] and all(path[-1] == "torch" for paths, _ in given["changed"] for path in paths)
    assert len(pickle.dumps(given)) < 6000 < len(pickle.dumps(other))
