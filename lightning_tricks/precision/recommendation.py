"""Which precision pays: measured rows in, a recommendation with its reasons out. Pure functions, no Lightning."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

import torch
from torch import nn

from lightning_tricks.errors import listed

PRECISIONS = ("ieee-fp32", "tf32", "bf16-mixed", "16-mixed", "bf16-true")
_PAYS = 1.1  # times as fast, in every round
_SAVES = 0.85  # share of the memory
_FAITHFUL = 0.99  # cosine of the gradients
_LONGER = 2.0  # times as long as the gradient of float32
_LAUNCH_BOUND = 0.85  # share of a step in which the host still launches kernels


@dataclass
class PrecisionRow:
    """What one precision did to the model.

    Args:
        precision: ``ieee-fp32``, ``tf32``, ``bf16-mixed``, ``16-mixed`` or ``bf16-true``.
        seconds: per step, one median for each round.
        peak_bytes: memory that one step allocated at most, weights and optimizer state included.
        cosine: of its first gradient to that of ieee-fp32.
        loss: of the first step.
        skipped: share of steps that the GradScaler skipped.
        problem: why there are no numbers; empty where there are.
        host_share: share of a step's time in which the host was still launching kernels.
        length: of its first gradient, over that of ieee-fp32's.
        noise: cosine of the gradient of half of the batch to that of all of it; measured in ieee-fp32, NaN elsewhere.
    """

    precision: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    cosine: float = math.nan
    loss: float = math.nan
    skipped: float = 0.0
    problem: str = ""
    host_share: float = 0.0
    length: float = 1.0
    noise: float = math.nan


def speedup(rows: dict[str, PrecisionRow], precision: str, base: str) -> tuple[float, float, float] | None:
    """Return how many times faster a precision is than ``base``: median, least and largest of the paired rounds.

    >>> rows = {"a": PrecisionRow("a", [1.0, 2.0, 1.0]), "b": PrecisionRow("b", [0.5, 1.0, 0.4])}
    >>> speedup(rows, "b", "a")
    (2.0, 2.0, 2.5)
    """
    if base not in rows or not rows[base].seconds or not rows[precision].seconds:
        return None
    pairs = [b / a for a, b in zip(rows[precision].seconds, rows[base].seconds, strict=True)]
    return statistics.median(pairs), min(pairs), max(pairs)


def unavailable(precision: str, device: torch.device) -> str:
    """Return why a device does not have a precision; empty where it does.

    >>> unavailable("16-mixed", torch.device("cpu"))
    'Lightning makes it bf16-mixed on a CPU'
    """
    if device.type == "cpu":
        return {
            "tf32": "a mode of NVIDIA tensor cores",
            "16-mixed": "Lightning makes it bf16-mixed on a CPU",
        }.get(precision, "")
    if device.type == "cuda" and precision != "ieee-fp32":
        major = torch.cuda.get_device_capability(device)[0]
        # (Ampere, compute capability 8.0, was the first to have TF32 and bfloat16)
        if major < 8 and precision in ("tf32", "bf16-mixed", "bf16-true"):
            return f"{torch.cuda.get_device_name(device)} does not have it (compute capability 8.0 or more)"
    return ""


def recommend(rows: dict[str, PrecisionRow], device: torch.device) -> tuple[str, list[str]]:
    """Return a precision for the Trainer and the reasons.

    A mixed precision is recommended when it is at least 1.1 times as fast as float32 (TF32, where there is one) in
    every round, or takes at most 85 % of its memory without being slower, and its gradient is that of float32: the
    cosine is at least 0.99, or rounding turns the gradient less than leaving out half of the batch does and leaves its
    length between a half and twice as long. (Gradients of deep networks with BatchNorm are sensitive at the beginning:
    healthy ones have cosines from 0.3 on.) bf16-mixed comes first: it needs no loss scale. bf16-true is never
    recommended from a few steps: whether a model trains to the same quality without float32 weights only a full run
    can tell.
    """
    # Where there is TF32, a user gets it for one line of code, so mixed precision has to be compared with that.
    base = "tf32" if rows.get("tf32") and rows["tf32"].seconds else "ieee-fp32"
    advice = "32-true"
    reasons: list[str] = []
    best = 0.0
    for precision in ("bf16-mixed", "16-mixed"):
        row = rows.get(precision)
        found = None if row is None else speedup(rows, precision, base)
        if row is None or found is None:
            continue
        memory = row.peak_bytes / max(1, rows[base].peak_bytes)
        said = f"{precision}: {found[0]:.2f} times as fast as {base}, {memory:.0%} of its memory"
        noise = rows["ieee-fp32"].noise if "ieee-fp32" in rows else math.nan
        same = row.cosine >= _FAITHFUL
        below_noise = row.cosine > max(noise, 0.0) and 1 / _LONGER <= row.length <= _LONGER
        if not ((same or below_noise) and math.isfinite(row.loss)):
            reasons.append(f"{said}, but its gradient differs (cosine {row.cosine:.3f}): look with PrecisionDoctor.")
            continue
        # The slowest of the paired rounds decides, not the median: a gain within the noise is not a gain.
        pays = found[1] >= _PAYS or (memory <= _SAVES and found[0] >= 0.98)
        better = found[0] > best * 1.05  # 16-mixed comes second, and needs a loss scale: it has to be clearly faster
        if pays and better:
            advice, best = precision, found[0]
        gradient = f"same gradient (cosine {row.cosine:.4f})"
        if not same:
            gradient = (
                f"rounding turns the gradient less (cosine {row.cosine:.3f}) than half a batch does ({noise:.3f})"
            )
        reasons.append(f"{said}, {gradient}.")
    if advice == "32-true":
        reasons.insert(0, "Mixed precision will not help here: it neither saves a tenth of the time nor much memory.")
    return advice, [*reasons, *_remarks(rows, base, device)]


def _remarks(rows: dict[str, PrecisionRow], base: str, device: torch.device) -> list[str]:
    """Return what the rows say beside the choice between mixed precision and float32."""
    reasons = []
    if device.type == "cuda" and rows[base].host_share > _LAUNCH_BOUND:
        share = rows[base].host_share
        reasons.append(
            f"Launch-bound: {share:.0%} of a step pass while the host launches kernels, which no precision changes. "
            "Use larger batches or torch.compile."
        )
    if base == "tf32" and (found := speedup(rows, "tf32", "ieee-fp32")) is not None:
        reasons.append(
            f"tf32: {found[0]:.2f} times as fast as ieee-fp32; "
            "torch.set_float32_matmul_precision('high') switches it on."
        )
    true_half = speedup(rows, "bf16-true", base) if "bf16-true" in rows else None
    if true_half is not None:
        share = rows["bf16-true"].peak_bytes / max(1, rows[base].peak_bytes)
        reasons.append(
            f"bf16-true: {true_half[0]:.2f} times as fast, {share:.0%} of the memory, but with weights of 8 bits of "
            "mantissa: only a full run tells whether the model trains as well."
        )
    return reasons


def shape_findings(module: nn.Module, device: torch.device) -> list[str]:
    """Return what about a model's shapes keeps 16-bit arithmetic from being fast or safe.

    >>> shape_findings(nn.Linear(10, 16), torch.device("cpu"))
    ["Sizes that are not multiples of 8, which leave the tensor cores of a GPU idle: '' Linear(10, 16)."]
    """
    odd, plain, losses = [], [], []
    for name, part in module.named_modules():
        sizes: tuple[int, ...] = ()
        if isinstance(part, nn.Linear):
            sizes = part.in_features, part.out_features
        elif isinstance(part, nn.Embedding):
            sizes = part.num_embeddings, part.embedding_dim
        elif isinstance(part, nn.Conv2d):
            sizes = part.in_channels, part.out_channels
            # the first layer of an image network has 3 or 4 channels, whatever the format
            if sizes[0] > 4 and not part.weight.is_contiguous(memory_format=torch.channels_last):
                plain.append(name)
        elif isinstance(part, nn.BCELoss):
            losses.append(name)
        if any(size % 8 for size in sizes if size > 4):  # small sizes (classes, colours) do not matter for time
            odd.append(f"{name!r} {type(part).__name__}({', '.join(map(str, sizes))})")
    out = []
    if odd:
        out.append(f"Sizes that are not multiples of 8, which leave the tensor cores of a GPU idle: {listed(odd, 4)}.")
    if plain and device.type == "cuda":
        out.append(f"{len(plain)} convolutions are not in channels_last: module.to(memory_format=torch.channels_last).")
    if losses:
        out.append(f"{losses[0]!r} is BCELoss, which autocast refuses on a GPU: use BCEWithLogitsLoss.")
    return out
