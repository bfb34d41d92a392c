"""FP32 against mixed precision: time, memory and accuracy, in five precisions, each ratio over IEEE float32 and TF32."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import accuracy, ceilings, figures, optimizer_steps, precision_report
from benchmarks.cells import Plan, failed, measure, pack, settings_for
from benchmarks.environment import describe
from benchmarks.measure import LEAST_ROUNDS
from benchmarks.overhead import synchronizes
from benchmarks.quiet import loggers_silent
from benchmarks.results import FOLDER, out_path, save
from benchmarks.settings import PRECISIONS, Setting, all_flags
from benchmarks.workloads import PROFILES, workloads
from lightning_tricks.errors import nearest

SCHEMA = 2  # 1 had our callbacks in every cell
SECTIONS = ("speed", "accuracy", "bytes", "optimizers")
PLANS = {"gpu": Plan(6, 0.5, 5, 3), "cpu": Plan(9, 0.18, 2, 3), "quick": Plan(5, 0.02, 2, 1)}
SIZES: dict[str, dict[str, Any]] = {
    "gpu": {"seeds": 8, "epochs": 8, "byte_seeds": 3, "byte_steps": 120, "byte_model": (6, 384, 256, 32)},
    "cpu": {"seeds": 8, "epochs": 6, "byte_seeds": 3, "byte_steps": 50, "byte_model": (2, 128, 64, 16)},
    "quick": {"seeds": 2, "epochs": 1, "byte_seeds": 1, "byte_steps": 3, "byte_model": (1, 64, 16, 4)},
}
METHOD = (
    "Every cell is a Trainer.fit in a thread of its own; blocks of steps of all columns of a workload take turns in shuffled "
    "order, and all are made again in several sessions. The pack (GradientMonitor, GradientClip, LRSchedule, LossScaleGuard, "
    "PrecisionDoctor) is a column of its own. Ratios: median over rounds of the paired value with a 95 % bootstrap interval, "
    "drawn by session and then by round; where the interval contains 1, nothing is "
    "claimed. Memory: peak of what is allocated in one step, weights and optimizer state included, each precision alone. "
    "ieee-fp32 and tf32 set torch's flags for matrix products and for cuDNN alike; they are put back after every block. Batches "
    "are random and lie on the device. Accuracy: paired seeds, two one-sided t tests."
)


def main(arguments: Sequence[str]) -> int:
    """Measure, print, draw and save; return 0, or 130 when interrupted (what is finished is kept)."""
    options = _options(arguments)
    device = torch.device("cuda" if options.profile == "gpu" else "cpu")
    out: Path = options.out
    threads = torch.get_num_threads()
    if (
        device.type == "cpu"
    ):  # every lane has a pool of its own, and pools that wait for work disturb the lane that runs
        torch.set_num_threads(options.threads)
    try:
        return _main(options, device, out, arguments)
    finally:
        torch.set_num_threads(threads)


def _main(options: argparse.Namespace, device: torch.device, out: Path, arguments: Sequence[str]) -> int:
    result = _begin(options, device, arguments)
    if options.resume:
        result = _resumed(result, out)
    began = time.perf_counter()
    code = 0
    with _quiet(), _progress(_units(options)) as (tick, advance):
        try:
            _run(options, device, result, tick, advance, lambda: _save(result, out))
            result["complete"] = True
            if device.type == "cuda":
                result["environment"]["state_at_the_end"] = _nvidia_smi()
        except KeyboardInterrupt:
            code = 130
    result["seconds"] = result.get("seconds", 0.0) + time.perf_counter() - began
    _save(result, out)
    console = Console(width=200)
    console.print(precision_report.markdown(result), markup=False, highlight=False)
    pictures = figures.draw(result, out)
    figures.tensorboard(result, options.tensorboard / out.stem)
    console.print(f"written: {out}, {', '.join(p.name for p in [out.with_suffix('.md'), *pictures])}", highlight=False)
    console.print(f"TensorBoard: tensorboard --logdir {options.tensorboard}", highlight=False)
    if code:
        more = [] if "--out" in arguments else ["--out", str(out)]
        again = " ".join([result["command"], *more, "--resume"])
        console.print(f"interrupted; go on with: {again}", highlight=False, soft_wrap=True)
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks run precision", description=__doc__)
    parser.add_argument("--profile", choices=("gpu", "cpu"), help="sizes of the models; default: gpu if there is one")
    parser.add_argument("--quick", action="store_true", help="three tiny workloads on the CPU, to see that it runs")
    parser.add_argument("--only", help="comma-separated workloads")
    parser.add_argument(
        "--precisions", default=",".join(PRECISIONS), help=f"comma-separated, of {', '.join(PRECISIONS)}"
    )
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"comma-separated, of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--fused",
        action=argparse.BooleanOptionalAction,
        help="fused optimizers, else torch's own choice; default: on a GPU",
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the CPU profile")
    parser.add_argument("--rounds", type=int, help="blocks per cell")
    parser.add_argument("--seconds", type=float, help="seconds per block")
    parser.add_argument("--seeds", type=int, help="runs per precision of the accuracy section")
    parser.add_argument("--data-root", type=Path, help="folder with cifar-10-batches-py: accuracy on CIFAR-10 too")
    parser.add_argument(
        "--out", type=out_path, help="JSON file; default: benchmarks/results/<date>_<hardware>_<profile>.json"
    )
    parser.add_argument("--resume", action="store_true", help="keep what --out holds already, measure the rest")
    parser.add_argument("--tensorboard", type=Path, default=Path("runs/benchmarks"), help="folder of the logs")
    options = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    if options.profile == "gpu" and not cuda:
        parser.error("--profile gpu: this torch sees no CUDA device (torch.cuda.is_available() is False). Use --profile cpu, "
                     "or install a CUDA build of torch and check nvidia-smi.")  # fmt: skip
    options.profile = "quick" if options.quick else options.profile or ("gpu" if cuda else "cpu")
    options.fused = options.profile == "gpu" if options.fused is None else options.fused
    options.precisions = _known(parser, "--precisions", options.precisions, PRECISIONS)
    options.sections = _known(parser, "--sections", options.sections, SECTIONS)
    names = tuple(workloads(options.profile))
    options.only = _known(parser, "--only", options.only, names) if options.only else list(names)
    plan = PLANS[options.profile]
    for name, value in (
        ("--threads", options.threads),
        ("--rounds", options.rounds),
        ("--seconds", options.seconds),
        ("--seeds", options.seeds),
    ):
        if value is not None and not value > 0:
            parser.error(f"{name} {value}: must be > 0.")
    if options.rounds is not None and options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {options.rounds}: must be at least {LEAST_ROUNDS}, since the interval of fewer blocks covers less than it says.")  # fmt: skip
    options.plan = Plan(options.rounds or plan.rounds, options.seconds or plan.seconds, plan.least_steps, plan.sessions)
    options.sizes = dict(SIZES[options.profile])
    options.sizes["seeds"] = options.seeds or options.sizes["seeds"]
    folder = Path("runs/benchmarks") if options.quick else FOLDER  # a look at whether it runs is no result to keep
    name = f"{time.strftime('%Y-%m-%d')}_{_hardware(cuda)}_{options.profile}.json"
    options.out = options.out or folder / name
    if options.data_root is not None and not options.data_root.is_dir():
        parser.error(f"--data-root {options.data_root}: no such folder.")
    return options


def _known(parser: argparse.ArgumentParser, option: str, text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            near = nearest(name, known)
            hint = f" Did you mean {near!r}?" if near else ""
            parser.error(f"{option} {name}: not one of {', '.join(known)}.{hint}")
    if not names:
        parser.error(f"{option} {text!r}: names none. Use some of {', '.join(known)}.")
    return names


def _hardware(cuda: bool) -> str:
    found = describe()
    name = found["gpu"] if cuda and found["gpu"] else found["cpu"]
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|\d+-core|processor", "", name.lower())).strip("-")


def _begin(options: argparse.Namespace, device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    shown = [a for a in arguments if a != "--resume"]
    return {
        "table": "precision",
        "schema": SCHEMA,
        "profile": options.profile,
        "command": " ".join(["python -m benchmarks run precision", *shown]),
        "date": time.strftime("%Y-%m-%d"),
        "environment": {**describe(), **_device_facts(device)},
        "method": METHOD,
        "precisions": options.precisions,
        "only": options.only if options.only != list(workloads(options.profile)) else None,
        "fused": options.fused,
        "plan": {**vars(options.plan), "threads": torch.get_num_threads()},
        "complete": False,
        "cells": [],
    }


def _device_facts(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {"flags": all_flags(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts.update(
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            capability=f"{properties.major}.{properties.minor}",
            memory_bytes=properties.total_memory,
            state=_nvidia_smi(),
            allocator=os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
        )
    else:
        facts["bfloat16_on_this_cpu"] = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return facts


def _nvidia_smi() -> dict[str, str]:
    """Driver, clocks, temperature and what slows the GPU down, as nvidia-smi says; empty where it is missing."""
    asked = (
        "driver_version",
        "clocks.sm",
        "clocks.max.sm",
        "temperature.gpu",
        "power.draw",
        "clocks_throttle_reasons.active",
    )
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", "-i", "0"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return dict(zip(asked, (part.strip() for part in line.split(",")), strict=False))


def _resumed(fresh: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the result in the file, if it was measured in the same way."""
    if not path.exists():
        return fresh
    try:
        old: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise SystemExit(f"--resume: {path} cannot be read ({error}). Remove it, or use another --out.") from error
    for key in ("table", "schema", "profile", "fused", "plan", "precisions"):
        if old.get(key) != fresh[key]:
            raise SystemExit(
                f"--resume: {path} was measured with {key}={old.get(key)!r}, this run has {fresh[key]!r}. Use another --out."
            )
    return old


def _units(options: argparse.Namespace) -> int:
    return len(options.only) * ("speed" in options.sections) + len([s for s in options.sections if s != "speed"])


def _run(
    options: argparse.Namespace, device: torch.device, result: dict[str, Any], tick: Any, advance: Any, keep: Any
) -> None:
    """Measure what is not in the result yet; ``keep`` writes it after every part."""
    if "ceilings" not in result:
        tick("ceilings")
        result["ceilings"] = ceilings.measure(device, options.profile == "quick")
    known = workloads(options.profile)
    done = {cell["workload"] for cell in result["cells"]}
    for name in options.only if "speed" in options.sections else ():
        if name not in done:
            settings = settings_for(known[name], options.precisions, device.type == "cuda")
            try:
                found = measure(
                    known[name], settings, device, options.plan, result["ceilings"], fused=options.fused, tick=tick
                )
            except Exception as error:  # one workload that fails is a row; the others are measured
                found = failed(known[name], settings, error)
            result["cells"] += [{**cell, "text": known[name].text, "expects": known[name].expects} for cell in found]
            keep()
        advance()
    usable = [p for p in options.precisions if not Setting(p).missing(device)]
    sizes = options.sizes
    for section in options.sections:
        if section == "speed":
            continue
        if section not in result:
            try:
                result[section] = _section(section, usable, device, sizes, options, tick)
            except Exception as error:
                result.setdefault("failures", {})[section] = f"{type(error).__name__}: {error}"[:300]
            keep()
        advance()
    if device.type == "cuda" and "synchronizes" not in result:
        tick("host reads")
        result["synchronizes"] = {
            f"{name}, {'fused' if options.fused else 'foreach'}, {what}": synchronizes(
                name, "bf16-mixed", tricks, options.fused
            )
            for name in ("b", "transformer")
            for what, tricks in (("bare", []), ("pack", pack()))
        }


def _section(
    section: str, usable: list[str], device: torch.device, sizes: dict[str, Any], options: argparse.Namespace, tick: Any
) -> Any:
    if section == "optimizers":
        return optimizer_steps.measure(device, options.profile == "quick", tick)
    if section == "bytes":
        return accuracy.bits_per_byte(
            usable, device, sizes["byte_seeds"], sizes["byte_steps"], sizes["byte_model"], tick
        )
    tables = [accuracy.measure("digits", accuracy.digits(), usable, device, sizes["seeds"], sizes["epochs"], tick)]
    if options.data_root is not None:
        data = accuracy.cifar(options.data_root)
        tables.append(accuracy.measure("CIFAR-10", data, usable, device, 3, sizes["epochs"], tick))
    return tables


def _save(result: dict[str, Any], path: Path) -> None:
    save(result, path, precision_report.markdown(result))


@contextmanager
def _quiet() -> Iterator[None]:
    """Only the progress bar speaks while Trainers are made by the dozen."""
    with loggers_silent(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _progress(units: int) -> Iterator[tuple[Any, Any]]:
    columns = (
        TextColumn("{task.description:40}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        task = progress.add_task("precision", total=units)
        yield lambda text: progress.update(task, description=text[:40]), lambda: progress.advance(task)


assert set(PLANS) == set(SIZES) == set(PROFILES)
