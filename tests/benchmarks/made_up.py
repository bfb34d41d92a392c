"""A precision result with known numbers."""

from __future__ import annotations

from typing import Any


def cell(setting: str, milliseconds: float, peak: int, **more: Any) -> dict[str, Any]:
    precision = setting.split()[0].split("+")[0]
    seconds = [milliseconds / 1e3 * f for f in (0.98, 1.0, 1.02, 0.99, 1.01)]
    return {
        "workload": "net", "text": "a net", "setting": setting, "precision": precision, "cached": "+cache" in setting,
        "pack": "bare" not in setting, "status": "ok", "seconds": seconds, "peak_bytes": peak, "unit": "rows",
        "milliseconds": {"value": milliseconds, "low": milliseconds, "high": milliseconds}, "per_second": 1e3,
        "flops": 10**9, "mfu_datasheet": None, "mfu_ceiling": 0.5, "roofline_share": 0.6, "gradient_cosine": 1.0, **more,
    }  # fmt: skip


def interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def result() -> dict[str, Any]:
    fast = interval(2.0, 0.1)
    return {
        "table": "precision", "schema": 1, "profile": "cpu", "command": "x", "date": "2026-01-01", "method": "m",
        "environment": {"gpu": None, "cpu": "a cpu", "threads": 2, "torch": "2", "lightning": "2", "commit": "abc"},
        "precisions": ["ieee-fp32", "bf16-mixed"], "fused": False, "plan": {}, "complete": True,
        "ceilings": {"flops": {"ieee-fp32": 1e11}, "bytes_per_second": 1e10, "matmul_size": 8},
        "cells": [
            cell("ieee-fp32", 10.0, 100, **{"faster_than_ieee-fp32": interval(1.0, 0.0), "memory_of_ieee-fp32": 1.0}),
            cell("bf16-mixed", 5.0, 60, **{"faster_than_ieee-fp32": fast, "memory_of_ieee-fp32": 0.6},
                 pack_cost=interval(1.005, 0.01), pack_milliseconds=interval(0.02, 0.05)),
            cell("bf16-mixed bare", 4.98, 60),
        ],
        "accuracy": [{"task": "digits", "seeds": 3, "epochs": 2, "rows": [
            {"precision": "ieee-fp32", "base": "ieee-fp32", "accuracy": [98.0] * 3, "mean_accuracy": 98.0,
             "epochs_to_wanted": [1, 2, None]},
            {"precision": "bf16-mixed", "base": "ieee-fp32", "accuracy": [98.1] * 3, "mean_accuracy": 98.1,
             "epochs_to_wanted": [1, 2, None], "verdict": "EQUIVALENT", "difference": interval(0.1, 0.1)},
        ]}],
        "optimizers": [{"optimizer": "Adam", "tensors": 1, "elements": 2, **{
            k: {"milliseconds": ms, "over_forloop": interval(ms / 3, 0.0)}
            for k, ms in (("forloop", 3.0), ("foreach", 2.0), ("fused", 1.0))}}],
    }  # fmt: skip
