from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.compare import compare
from tests.benchmarks.made_up import result


def measured(seed: int, slower: float = 1.0, gpu: bool = False, noise: float = 0.01) -> dict[str, Any]:
    """A result with noise of its own; bf16-mixed is ``slower`` times as slow."""
    draw, found = random.Random(seed), copy.deepcopy(result())
    for cell in found["cells"]:
        factor = slower if cell["precision"] == "bf16-mixed" else 1.0
        base = cell["milliseconds"]["value"] / 1e3
        cell["seconds"] = [base * factor * draw.gauss(1.0, noise) for _ in range(9)]
    if gpu:
        found["profile"] = "gpu"
        found["environment"]["gpu"] = "NVIDIA H200"
    return found


def run(tmp_path: Path, old: dict[str, Any], new: dict[str, Any]) -> Any:
    paths = [tmp_path / "old.json", tmp_path / "new.json"]
    for path, found in zip(paths, (old, new), strict=True):
        path.write_text(json.dumps(found))
    return main(["compare", *map(str, paths)])


@pytest.mark.parametrize("gpu", [False, True])
def test_the_same_code_twice_passes(gpu: bool) -> None:
    for seed in range(20):
        assert compare(measured(seed, gpu=gpu), measured(100 + seed, gpu=gpu))[1] == 0


@pytest.mark.parametrize("gpu", [False, True])
def test_a_slowdown_of_10_percent_is_caught(gpu: bool, tmp_path: Path, capsys: Any) -> None:
    caught = sum(compare(measured(s, gpu=gpu), measured(100 + s, 1.1, gpu=gpu))[1] for s in range(20))
    assert caught == 20
    assert run(tmp_path, measured(0, gpu=gpu), measured(1, 1.1, gpu=gpu)) == 1
    assert "WORSE" in capsys.readouterr().out
    text, code = compare(measured(0, gpu=gpu), measured(1, 0.85, gpu=gpu))
    assert code == 0
    assert "better" in text


def test_a_slower_cpu_is_no_slower_code() -> None:
    """All cells 30 % slower: on a CPU that is the machine, on a GPU it is not."""
    for gpu, wanted in ((False, 0), (True, 1)):
        old, new = measured(0, gpu=gpu), measured(1, gpu=gpu)
        for cell in new["cells"]:
            cell["seconds"] = [1.3 * s for s in cell["seconds"]]
        assert compare(old, new)[1] == wanted


def test_more_memory_and_a_lost_equivalence_are_regressions() -> None:
    new = measured(1)
    new["cells"][1]["peak_bytes"] = 63
    assert compare(measured(0), new)[1] == 1
    new = measured(1)
    new["accuracy"][0]["rows"][1]["verdict"] = "WORSE"
    assert compare(measured(0), new)[1] == 1
    new["accuracy"][0]["rows"][1]["verdict"] = "INCONCLUSIVE"
    assert compare(measured(0), new)[1] == 0


def broken(change: Any, gpu: bool = False) -> dict[str, Any]:
    found = measured(1, gpu=gpu)
    change(found)
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["cells"][0].update(mfu_datasheet=1.2), "MFU 1.20"),
        (lambda r: r["cells"][0].update(mfu_ceiling=1.7), "1.70 of the measured ceiling"),
        (lambda r: r["cells"][0]["seconds"].append(-0.1), "A time is > 0"),
        (lambda r: r["cells"][0]["seconds"].append(math.nan), "A time is > 0"),
        (lambda r: r["cells"][0].update(peak_bytes=0), "peak memory 0"),
        (lambda r: r["cells"][1].update(peak_bytes=600), "10.00-fold"),
        (lambda r: r["cells"][1].update(seconds=[0.05] * 9), "fold"),
        (lambda r: r.update(profile="quick"), "profile differs"),
        (lambda r: r.update(schema=2), "schema differs"),
        (lambda r: r.update(schema=3), "schema 3 cannot be read. This version reads 1 and 2"),
        (lambda r: r.pop("cells"), "cells"),
    ],
)
def test_absurd_numbers_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=words):
        run(tmp_path, measured(0), broken(change))


def test_files_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SystemExit, match="compare:"):
        main(["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")])
    with pytest.raises(SystemExit, match="is of 'precision'.*of 'overhead'"):
        run(tmp_path, measured(0), {"table": "overhead"})


def test_machines_are_compared_by_ratios(tmp_path: Path) -> None:
    """A GPU that is twice as fast in every precision is the same; one that gains less from bfloat16 is worse."""
    old, new = measured(0, gpu=True), measured(1, gpu=True)
    new["environment"]["gpu"] = "another GPU"
    for cell in new["cells"]:
        cell["seconds"] = [s / 2 for s in cell["seconds"]]
    text, code = compare(old, new)
    assert code == 0
    assert "times are compared as ratios over IEEE float32" in text
    new["cells"][1]["seconds"] = [1.3 * s for s in new["cells"][1]["seconds"]]
    assert compare(old, new)[1] == 1
