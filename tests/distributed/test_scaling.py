"""The formulas of ``docs/scaling.md`` against what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import counting
from tests.distributed.counting import MODELS, Cost, sizes
from tests.matrix import REFUSED_UNDER_FSDP2
from tests.scaling import SCALES, SYMBOLS, Scale, scaling_page, value
from tests.together.problems import CALLBACKS

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]


def pairs(*others: tuple[str, tuple[int, int]]) -> list[Any]:
    """Every strategy with every model; those that are not named wait for ``--slow``."""
    every = [(strategy, model) for strategy in ("ddp", "fsdp2") for model in MODELS]
    return [
        pytest.param(*pair, id=f"{pair[0]}-{pair[1]}", marks=[] if pair in others else [pytest.mark.slow])
        for pair in every
    ]


def expected(scale: Scale, strategy: str, world: int, model: tuple[int, int]) -> Cost:
    size = sizes(world, *model)
    update = scale.update if world > 1 else ()
    logged = scale.logged if world > 1 else ()
    if strategy == "fsdp2":
        update, logged = (*update, *scale.sharded_update), (*logged, *scale.sharded_logged)
    totals = [(len(part), sum(value(f, size) for f in part)) for part in (update, (*update, *logged))]
    held = scale.single if scale.single is not None and world == 1 else scale.held
    return Cost((*totals[0], scale.reads), totals[1], value(held, size))


def assert_as_computed(found: dict[str, Cost], strategy: str, world: int, model: tuple[int, int]) -> None:
    for name, got in found.items():
        wanted = expected(SCALES[name], strategy, world, model)
        assert (got.update, got.logged[:2], got.held) == (wanted.update, wanted.logged, wanted.held), name


def test_every_callback_has_a_row_and_every_symbol_a_meaning() -> None:
    assert sorted(SCALES) == CALLBACKS
    assert set(sizes(1, *MODELS[0])) == set(SYMBOLS)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_one_process(model: tuple[int, int]) -> None:
    assert_as_computed(counting.added(CALLBACKS, "single", *model), "single", 1, model)


def communicators(strategy: str) -> list[str]:
    """Those that are fitted one by one; all others are fitted together, which must cost the sum."""
    parts = {"ddp": ("update", "logged"), "fsdp2": ("sharded_update", "sharded_logged")}[strategy]
    return [name for name, scale in SCALES.items() if any(getattr(scale, part) for part in parts)]


def assert_each_and_the_rest(ranks: Any, world: int, strategy: str, model: tuple[int, int]) -> None:
    names = communicators(strategy)
    for name in names:
        for found in ranks(counting.added, [name], strategy, *model):
            assert_as_computed(found, strategy, world, model)
    unfit = (*names, *(REFUSED_UNDER_FSDP2 if strategy == "fsdp2" else ()))
    rest = [name for name in CALLBACKS if name not in unfit]
    parts = [expected(SCALES[name], strategy, world, model) for name in rest]
    for found in ranks(counting.added_together, rest, strategy, *model):
        assert found.update[:2] == tuple(sum(p.update[i] for p in parts) for i in range(2))
        assert found.logged[:2] == tuple(sum(p.logged[i] for p in parts) for i in range(2))


# two and four processes, two strategies, two sizes: by default every pair of two of these is there
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("strategy", "model"), pairs(("ddp", MODELS[0]), ("fsdp2", MODELS[1])))
def test_two_processes(both_ranks: Any, strategy: str, model: tuple[int, int]) -> None:
    assert_each_and_the_rest(both_ranks, 2, strategy, model)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("strategy", "model"), pairs(("ddp", MODELS[1]), ("fsdp2", MODELS[0])))
def test_four_processes(four_ranks: Any, strategy: str, model: tuple[int, int]) -> None:
    assert_each_and_the_rest(four_ranks, 4, strategy, model)


def test_monitor_clip_and_doctor_share_the_norms_of_shards(both_ranks: Any) -> None:
    names = ["GradientMonitor", "GradientClip", "TrainingDoctor"]
    for found in both_ranks(counting.added_together, names, "fsdp2", *MODELS[0]):
        assert found.update[:2] == (1, 8 * sizes(2, *MODELS[0])["L"])
        assert found.logged[0] == 3  # (two of them are the doctor's own)


def test_the_page_is_that_of_the_formulas() -> None:
    page = Path(__file__).parents[2] / "docs" / "scaling.md"
    assert page.read_text() == scaling_page(), "python -m tests.scaling writes it anew"
