"""What this machine can do at most: matrix products per precision and copying, measured; datasheet peaks beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.settings import DEFAULT, PRECISIONS, Setting

# dense TFLOP/s without sparsity, from NVIDIA's datasheets: (name contains, float16 and bfloat16, TF32, float32)
DATASHEET = (
    ("H200 NVL", 835.5, 417.7, 60.0),
    ("H200", 989.5, 494.7, 66.9),
    ("H100 PCIe", 756.0, 378.0, 51.0),
    ("H100 NVL", 835.5, 417.7, 60.0),
    ("H100", 989.5, 494.7, 66.9),
    ("A100", 312.0, 156.0, 19.5),
    ("L40S", 362.0, 183.0, 91.6),
    ("V100", 125.0, 0.0, 15.7),
)


def datasheet(gpu: str | None, precision: str) -> float | None:
    """Return the dense peak in FLOP/s; None for a device that is not listed.

    >>> datasheet("NVIDIA H200", "tf32")
    494700000000000.0
    """
    row = next((r for r in DATASHEET if gpu and all(part in gpu for part in r[0].split())), None)
    if row is None:
        return None
    tera = {"ieee-fp32": row[3], "tf32": row[2], DEFAULT: row[2]}.get(precision, row[1])
    return tera * 1e12 or None


def measure(device: torch.device, quick: bool = False) -> dict[str, Any]:
    """Return FLOP/s of a square product by precision, and bytes/s of a copy (read and write), as measured.

    Data are random: zeros need less power and run faster.
    """
    size, copied = (8192, 2**31) if device.type == "cuda" else (512 if quick else 1536, 2**26)
    out: dict[str, Any] = {"matmul_size": size, "flops": {}}
    for precision in PRECISIONS:
        setting = Setting(precision)
        if setting.missing(device):
            continue
        a, b = (torch.randn(size, size, device=device, dtype=setting.dtype) for _ in range(2))
        with setting.flags():
            out["flops"][precision] = 2.0 * size**3 / shortest(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
    if "tf32" in out["flops"]:  # convolutions may be in TF32 there
        out["flops"][DEFAULT] = out["flops"]["tf32"]
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    out["bytes_per_second"] = 2.0 * source.nbytes / shortest(lambda: target.copy_(source), device)
    return out


def shortest(
    function: Callable[[], Any],
    device: torch.device,
    runs: int = 25,
    time_is_up: Callable[[], bool] = lambda: False,
) -> float:
    """Return the shortest time of a call: a ceiling is what the machine does when nothing disturbs it.

    Args:
        function: is called three times before it is timed.
        device: is waited for.
        runs: that are timed.
        time_is_up: whether fewer have to do; at least three are timed.
    """
    for _ in range(3):
        function()
    times: list[float] = []
    while len(times) < runs and not (len(times) >= 3 and time_is_up()):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
