"""Networks of very many layers and parameter groups: calls follow their number, and not its square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale, width
from tests.together.problems import CALLBACKS

# LRFinder and SanityCheck act before the first step only
TOGETHER = scale.TOGETHER
LINEAR = 1.25  # of the calls for each layer of a small network; a square would give ten times as many


def calls(names: list[str], layers: int, groups: int, folder: Path) -> dict[str, int]:
    return width.counted([width.CALLBACKS[name]() for name in names], layers, folder, groups)


def assert_linear(counts: list[dict[str, int]], sizes: tuple[int, int, int]) -> None:
    for part in ("start", "quiet", "logged"):
        few, more, many = (count[part] for count in counts)
        for_each, for_each_of_many = (more - few) / (sizes[1] - sizes[0]), (many - more) / (sizes[2] - sizes[1])
        assert for_each_of_many < LINEAR * for_each + 1, (part, for_each, for_each_of_many)


def test_every_callback_has_an_example() -> None:
    assert sorted(width.CALLBACKS) == CALLBACKS


def slow(*values: Any, seconds: int) -> Any:
    return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.timeout(seconds)])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sizes", [(4, 12, 36), slow((100, 1000, 10_000), seconds=7200)], ids=str)
def test_calls_with_all_callbacks_follow_the_number_of_layers(sizes: tuple[int, int, int], tmp_path: Path) -> None:
    assert_linear([calls(TOGETHER, n, 1, tmp_path) for n in sizes], sizes)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("layers", "sizes"), [(18, (2, 6, 18)), slow(500, (30, 100, 1000), seconds=3600)], ids=str)
def test_calls_with_all_callbacks_follow_the_number_of_parameter_groups(
    layers: int, sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    assert_linear([calls(TOGETHER, layers, k, tmp_path) for k in sizes], sizes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", width.CALLBACKS)
def test_calls_of_each_callback_follow_the_number_of_layers_up_to_1000(name: str, tmp_path: Path) -> None:
    sizes = (30, 100, 1000)
    assert_linear([calls([name], n, 1, tmp_path) for n in sizes], sizes)
