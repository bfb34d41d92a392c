"""What a snapshot for a dry run costs: seconds and bytes, for models of real sizes."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.environment import describe
from benchmarks.models.resnet import Bottleneck, resnet
from benchmarks.models.transformer import ByteTransformer
from benchmarks.results import FOLDER, out_path, save, table
from lightning_tricks.dry_run.roots import Roots
from lightning_tricks.dry_run.snapshot import Snapshot


def _resnet50() -> tuple[nn.Module, Tensor]:
    return resnet(Bottleneck, (3, 4, 6, 3), 64, 1000, large=True), torch.randn(8, 3, 224, 224)


def _transformer() -> tuple[nn.Module, Tensor]:
    return ByteTransformer(12, 768), torch.randint(256, (8, 256))


def _small() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), torch.randn(32, 64)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "two linear layers": _small,
    "ResNet-50, 8 images of 224 pixels": _resnet50,
    "transformer, 12 layers of 768, 8 x 256 bytes": _transformer,
}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Time each part of a dry run with and without steps of the optimizer, in turns with a plain forward pass."""
    torch.manual_seed(0)
    module, batch = MODELS[name]()
    optimizer = torch.optim.AdamW(module.parameters())
    parts: dict[str, list[float]] = {}
    facts: dict[str, Any] = {}
    for _ in range(rounds + 1):  # (the first one warms up)
        with torch.no_grad():
            _timed(parts, "forward", lambda: module(batch))
        looking = _timed(parts, "take, to look", lambda: Snapshot(Roots({"module": module})))
        with torch.no_grad(), looking:
            _timed(parts, "forward, watched", lambda: module(batch))
        _timed(parts, "restore, to look", looking.restore)
        _timed(parts, "check, to look", looking.damage)
        roots = Roots({"module": module}, {"optimizer": optimizer})
        stepping = _timed(parts, "take, to step", partial(Snapshot, roots, steps=True))
        _timed(parts, "restore, to step", stepping.restore)
        _timed(parts, "check, to step", stepping.damage)
        facts = {"objects": looking.num_records, "held_to_look": looking.nbytes, "held_to_step": stepping.nbytes}
    parameters = sum(p.nbytes for p in module.parameters())
    seconds = {part: values[1:] for part, values in parts.items()}
    return {"model": name, "parameter_bytes": parameters, **facts, "seconds": seconds}


def _timed(parts: dict[str, list[float]], name: str, do: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = do()
    parts.setdefault(name, []).append(time.perf_counter() - start)
    return result


def markdown(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    environment = result["environment"]
    rows = []
    for row in result["rows"]:
        times = {part: f"{1000 * statistics.median(values):.1f}" for part, values in row["seconds"].items()}
        megabytes = [f"{row[key] / 2**20:.1f}" for key in ("parameter_bytes", "held_to_look", "held_to_step")]
        rows.append([row["model"], megabytes[0], str(row["objects"]), times["forward"], times["forward, watched"],
                     times["take, to look"], times["restore, to look"], times["check, to look"], megabytes[1],
                     times["take, to step"], times["restore, to step"], times["check, to step"], megabytes[2]])  # fmt: skip
    header = ["model", "parameters, MiB", "objects and tensors", "forward pass, ms", "the same, watched",
              "to look: take, ms", "restore", "check", "held, MiB",
              "to step: take, ms", "restore", "check", "held, MiB"]  # fmt: skip
    return "\n".join(
        [
            "# What a snapshot for a dry run costs",
            "",
            f"`{result['command']}`",
            "",
            f"{environment['cpu']}, {result['threads']} thread, torch {environment['torch']}. Median of "
            f"{result['rounds']} rounds, the parts in turns. *To look*: for a forward pass that is undone (the "
            "reference batch, the second look after a skipped update, samples). Tensors above 1 MiB are not copied "
            "but watched, and read once for a checksum. *To step*: for updates that are undone (learning rate finder, "
            "sanity checks). All trained tensors are copied to the host. *Check*: the comparison afterwards.",
            "",
            table(header, rows),
            "",
        ]
    )


def summary(result: dict[str, Any]) -> str:
    """Return the table that ``docs/no_trace.md`` shows."""
    rows = []
    for row in result["rows"]:
        times = {part: f"{1000 * statistics.median(values):.1f}" for part, values in row["seconds"].items()}
        held = [f"{row[key] / 2**20:.1f} MiB" for key in ("held_to_look", "held_to_step")]
        rows.append([row["model"], times["forward"], times["take, to look"], held[0], times["take, to step"], held[1]])
    header = ["model", "forward pass, ms", "snapshot to look, ms", "held", "snapshot to step, ms", "held"]
    return table(header, rows)


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run dry_run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="a part of the name of a model")
    parser.add_argument("--out", type=out_path, default=FOLDER / "dry_run-cpu.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = [name for name in MODELS if options.only is None or options.only in name]
    result = {
        "table": "dry_run",
        "command": " ".join(["python -m benchmarks run dry_run", f"--rounds {options.rounds}"]),
        "date": date.today().isoformat(),
        "environment": describe(),
        "threads": 1,
        "rounds": options.rounds,
        "rows": [measure(name, options.rounds) for name in names],
    }
    save(json.loads(json.dumps(result)), options.out, markdown(result))
    print(markdown(result))
    return 0
