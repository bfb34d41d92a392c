"""The machine: hardware, versions and flags as found; ceilings of copying, of matrix products, of launching and reading."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.ceilings import datasheet, shortest
from benchmarks.gpu.nvml import meter_of
from benchmarks.gpu.rows import Clock, Context, Task, UnavailableError, measured
from benchmarks.settings import DEFAULT, Setting, all_flags

_QUERIES = (
    "driver_version", "vbios_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "ecc.mode.current", "power.limit",
    "power.draw", "temperature.gpu", "pstate", "persistence_mode", "compute_mode", "mig.mode.current",
    "clocks_throttle_reasons.active",
)  # fmt: skip
PRODUCTS = ("ieee-fp32", "tf32", "bf16-mixed", "16-mixed")


def tasks(context: Context) -> list[Task]:
    """Return the tasks of this part."""
    return [
        Task("machine", partial(_machine, context)),
        Task("copy", partial(_copy, context)),
        *(Task(f"product, {p}", partial(_product, context, p)) for p in PRODUCTS),
        Task("launch", partial(_launch, context)),
        Task("host read", partial(_read, context)),
    ]


def _machine(context: Context, clock: Clock) -> dict[str, Any]:
    device, meter = context.device, meter_of(context.device)
    facts: dict[str, Any] = {
        "flags": all_flags(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "allocator": {k: v for k, v in os.environ.items() if "ALLOC_CONF" in k},
        "nvidia-smi": _nvidia_smi(),
        "throttled": meter.throttled(),
    }
    found = [measured("processors", os.cpu_count() or 0)]
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        facts.update(name=p.name, capability=f"{p.major}.{p.minor}", multiprocessors=p.multi_processor_count)
        found.append(measured("memory", p.total_memory / 2**30, "GiB"))
    for what, value, unit in (
        ("power cap", meter.power_cap(), "W"), ("highest clock", meter.most_megahertz(), "MHz"),
        ("clock now", meter.megahertz(), "MHz"), ("temperature", meter.celsius(), "C"),
    ):  # fmt: skip
        if value is not None:
            found.append(measured(what, value, unit))
    facts["ecc"] = meter.ecc()
    return {"measured": found, "facts": facts}


def _nvidia_smi() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader", "-i", "0"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return dict(zip(_QUERIES, (part.strip() for part in line.split(",")), strict=False))


def _end_of(clock: Clock) -> Callable[[], bool]:
    return lambda: clock.left() < 0


def _copy(context: Context, clock: Clock) -> list[dict[str, Any]]:
    size = 2**24 if context.small else 2**31
    source = torch.randn(size // 4, device=context.device)
    target = torch.empty_like(source)
    seconds = shortest(lambda: target.copy_(source), context.device, time_is_up=_end_of(clock.part_of(4)))
    return [measured("bandwidth, read and write", 2e-9 * source.nbytes / seconds, "GB/s")]


def _product(context: Context, precision: str, clock: Clock) -> list[dict[str, Any]]:
    setting, device = Setting(precision), context.device
    if precision == "tf32" and device.type != "cuda":
        raise UnavailableError("a mode of NVIDIA tensor cores")
    size = 512 if context.small else 8192
    # random: zeros need less power and run faster
    a, b = (torch.randn(size, size, device=device, dtype=setting.dtype) for _ in range(2))
    with setting.flags():
        seconds = shortest(lambda: a @ b, device, 5 if context.small else 25, _end_of(clock.part_of(3)))
    found = [measured(f"{size} x {size}", 2e-12 * size**3 / seconds, "TFLOP/s")]
    peak = datasheet(torch.cuda.get_device_name(device) if device.type == "cuda" else None, precision)
    if peak is not None:
        found.append(measured("share of the datasheet", 2 * size**3 / seconds / peak))
    return found


def _launch(context: Context, clock: Clock) -> list[dict[str, Any]]:
    x = torch.zeros(1, device=context.device)
    count = 200

    def many() -> None:
        for _ in range(count):
            x.add_(1)

    seconds = shortest(many, context.device, 9, _end_of(clock.part_of(2)))
    return [measured("an operation on one number", 1e6 * seconds / count, "us")]


def _read(context: Context, clock: Clock) -> list[dict[str, Any]]:
    x = torch.zeros(1, device=context.device)
    seconds = shortest(x.item, context.device, time_is_up=_end_of(clock.part_of(2)))
    return [measured("one number to the host", 1e6 * seconds, "us")]


def ceilings(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the ceilings in the form of ``benchmarks.ceilings.measure`` from this part's file; None where some miss."""
    rows = {row["task"]: row for row in (result or {}).get("rows", []) if row["status"] == "ok"}
    flops = {
        p: 1e12 * rows[f"product, {p}"]["measured"][0]["value"] for p in PRODUCTS if f"product, {p}" in rows
    }  # fmt: skip
    if "copy" not in rows or "ieee-fp32" not in flops or "bf16-mixed" not in flops:
        return None
    flops["bf16-true"] = flops["bf16-mixed"]
    flops[DEFAULT] = flops.get("tf32", flops["ieee-fp32"])
    return {"flops": flops, "bytes_per_second": 1e9 * rows["copy"]["measured"][0]["value"]}
