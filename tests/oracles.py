"""Rules in plain Python floats, written from the papers. Imports nothing of ours."""

from __future__ import annotations

import math

import numpy as np


def autoclip(norms: list[float], percentile: float, window: int) -> list[float]:
    """Coefficients of AutoClip (arXiv:2007.14469), with a window."""
    out, seen = [], []
    for n in norms:
        if math.isfinite(n) and n > 0:
            seen.append(n)
        threshold = np.percentile(seen[-window:], percentile) if seen else math.inf
        out.append(min(1.0, threshold / n) if math.isfinite(n) and n > 0 else 1.0)
    return out


def zclip(norms: list[float], alpha: float, z: float, warmup: int, max_norm: float | None = None) -> list[float]:
    """Coefficients of ZClip (arXiv:2504.02507), adaptive scaling; with a floor of the deviation that knows no unit."""
    out, buffer = [], []
    mean = var = None
    for n in norms:
        limit = math.inf if max_norm is None else max_norm
        if not math.isfinite(n):
            out.append(1.0)
            continue
        if mean is None:
            buffer.append(n)
            if len(buffer) == warmup:
                mean = sum(buffer) / warmup
                var = sum((x - mean) ** 2 for x in buffer) / warmup
        else:
            std = math.sqrt(var)
            score = (n - mean) / (std + 1e-6 * mean)
            threshold = mean + z * std / (score / z) if score > z else math.inf
            kept = min(n, threshold)
            mean = alpha * mean + (1 - alpha) * kept
            var = alpha * var + (1 - alpha) * (kept - mean) ** 2
            limit = min(limit, threshold)
        out.append(min(1.0, limit / n))
    return out


def adagc(rows: list[list[float]], beta: float, relative: float, absolute: float, warmup: int) -> list[list[float]]:
    """Coefficients of AdaGC (arXiv:2502.11034), algorithm 1; ``rows[t][i]`` is the norm of tensor i at update t."""
    gamma = [math.inf] * len(rows[0])
    out, t = [], 0
    for row in rows:
        total = math.sqrt(sum(n * n for n in row))
        if not math.isfinite(total):
            out.append([1.0] * len(row))
            continue
        if t < warmup:
            h = [min(1.0, absolute / total)] * len(row)
            gamma = [min(g, c * n) for g, c, n in zip(gamma, h, row, strict=True)]
        else:
            h = [min(1.0, relative * g / n) for g, n in zip(gamma, row, strict=True)]
            gamma = [beta * g + (1 - beta) * c * n for g, c, n in zip(gamma, h, row, strict=True)]
        t += 1
        out.append(h)
    return out
