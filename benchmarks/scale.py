"""What grows with the steps of a training, and with its layers and parameter groups: counts, no times."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import growth, width
from benchmarks.environment import describe
from benchmarks.results import FOLDER, out_path, save, table

EVERY, EPOCH = 20, 2000  # updates between two logs (two batches make one); batches of an epoch
LAYERS, GROUPS = (100, 1000), (10, 100, 1000)
PARTS = ("steps", "layers", "groups")
TOGETHER = [name for name in width.CALLBACKS if name not in ("LRFinder", "SanityCheck")]


def steps(batches: int, marks: int) -> list[dict[str, Any]]:
    """Train for many steps with README's list and all other callbacks, and count at marks."""
    torch.manual_seed(0)
    at = [round(batches * i / marks) for i in range(1, marks + 1)]
    with tempfile.TemporaryDirectory() as folder:
        return [
            _summed(row)
            for row in growth.long_run(
                Path(folder), at, every=EVERY, epoch=EPOCH, tricks=growth.callbacks(EVERY),
                tell=lambda row: print(json.dumps(_summed(row)), flush=True),
            )
        ]  # fmt: skip


def _summed(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "objects": sum(row["objects"].values()), "states": sum(row["states"].values())}


def sizes(layers: Sequence[int], groups: Sequence[int]) -> list[dict[str, Any]]:
    """Fit without callbacks and with all of them, on networks of these many layers and parameter groups."""
    rows = []
    for name, makers in (("bare Trainer", []), (f"{len(TOGETHER)} callbacks", TOGETHER)):
        with tempfile.TemporaryDirectory() as folder:
            counts = [
                width.counted([width.CALLBACKS[maker]() for maker in makers], n, Path(folder), k)
                for n, k in zip(layers, groups, strict=True)
            ]
        rows.append({"callbacks": name, "counts": counts})
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# What grows with steps, layers and parameter groups", "", "Counts, not times: calls of Python and C",
             "functions on the training thread, objects that the garbage collector knows, bytes.", ""]  # fmt: skip
    for part in PARTS:
        if part in result:
            lines += [f"## {part.capitalize()}", "", f"`{result[part]['command']}`", "", *_part(part, result), ""]
    return "\n".join(lines)


def _part(part: str, result: dict[str, Any]) -> list[str]:
    return (steps_table(result[part]["rows"]) if part == "steps" else part_table(part, result)).splitlines()


def part_table(part: str, result: dict[str, Any]) -> str:
    """Return the table of many layers or groups."""
    rows = result[part]["rows"]
    numbers = result[part]["sizes"]
    header = ["", *(f"{what}, {n:,} {part}" for what in width.PARTS[:3] for n in numbers)]
    body = [[row["callbacks"], *(f"{c[what]:,}" for what in width.PARTS[:3] for c in row["counts"])] for row in rows]
    return table(header, body)


def steps_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of the long training."""
    header = ["batch", "objects", "bytes of containers", "bytes of tensors", "hooks", "bytes of all states",
              "calls in 80 batches", "of these in the package", "TensorBoard, bytes", "CSV, bytes"]  # fmt: skip
    body = [[f"{row[key]:,}" for key in ("batch", "objects", "container_bytes", "tensor_bytes", "hooks", "states", "calls",
             "calls_ours")] + [f"{row['logs'][kind]:,}" for kind in ("TensorBoard", ".csv")] for row in rows]  # fmt: skip
    return table(header, body)


def main(arguments: Sequence[str]) -> int:
    """Count, print, and write the result; parts that are not asked for stay as they were."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run scale", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--marks", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", help="of layers or groups")
    parser.add_argument("--out", type=out_path, default=FOLDER / "scale-cpu.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for part in options.parts:
        command = f"python -m benchmarks run scale --parts {part}"
        found: dict[str, Any] = {"environment": describe()}
        if part == "steps":
            found |= {"command": f"{command} --batches {options.batches} --marks {options.marks}"}
            found |= {"rows": steps(options.batches, options.marks)}
        else:
            numbers = options.sizes or (LAYERS if part == "layers" else GROUPS)
            other = [max(8, n // 2) if part == "groups" else 1 for n in numbers]
            found |= {"command": f"{command} --sizes {' '.join(map(str, numbers))}", "sizes": list(numbers)}
            pair = (numbers, other) if part == "layers" else (other, numbers)
            found |= {"rows": sizes(*pair)}
        # (another part may have been written by another process meanwhile)
        result = json.loads(options.out.read_text()) if options.out.exists() else {"table": "scale"}
        result[part] = found
        save(json.loads(json.dumps(result)), options.out, markdown(result))
    print(markdown(result))
    return 0
