"""After training has failed: what is known about it, as ``health.json`` and as a page of text.

Plain functions and two files of their own: they need no logger, no device that still works, and no other process.
"""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.torch_internals import tree_flatten_with_path

JSON_NAME, TEXT_NAME = "health.json", "health.txt"


def nonfinite_names(module: nn.Module) -> list[str]:
    """Return the parameters and buffers that hold NaN or inf, in the order of the network.

    >>> net = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(net.bias, float("nan"))
    >>> nonfinite_names(net)
    ['bias']
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    # (this process's part alone: a collective would wait for others, which may be gone)
    return [n for n, t in named if t.is_floating_point() and not bool(torch.isfinite(local(t.detach())).all())]


def batch_statistics(batch: Any) -> list[dict[str, Any]]:
    """Return of each tensor in a batch its place, shape, dtype, range, mean and how much of it is not finite.

    >>> batch_statistics({"x": torch.tensor([1.0, float("nan"), 3.0])})
    [{'place': "['x']", 'shape': [3], 'dtype': 'float32', 'nonfinite': 1, 'min': 1.0, 'max': 3.0, 'mean': 2.0}]
    """
    rows = []
    for place, leaf in tree_flatten_with_path(batch)[0]:
        if not isinstance(leaf, Tensor):
            continue
        # (float64: sums of float16 would overflow)
        values = leaf.detach().double()
        finite = values[torch.isfinite(values)]
        row: dict[str, Any] = {
            "place": "".join(map(str, place)),
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype).removeprefix("torch."),
            "nonfinite": int(values.numel() - finite.numel()),
        }
        if finite.numel():
            row |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
        rows.append(row)
    return rows


def outlying_rows(batch: Any, factor: float = 1e3) -> str:
    """Return which rows of a batch hold NaN or inf, or values 1,000 times those of the others; empty for none.

    Args:
        batch: tensors in any structure; a row is an index of the first dimension.
        factor: largest magnitude of a row over the median of all rows, from which on it is told.

    >>> outlying_rows({"x": torch.tensor([[1.0], [2.0], [1e8], [1.0]])})
    "row 2 of ['x'] holds values up to 1e+08, 1e+08 times those of the others"
    >>> outlying_rows([torch.tensor([[1.0], [float("nan")]])])
    'row 1 of [0] holds NaN or inf'
    """
    for place, leaf in tree_flatten_with_path(batch)[0]:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.ndim == 0 or not leaf.numel():
            continue
        sizes = leaf.detach().reshape(len(leaf), -1).abs().amax(dim=1).double()
        where = "".join(map(str, place)) or "the batch"
        bad = torch.nonzero(~torch.isfinite(sizes)).flatten().tolist()
        if bad:
            rows = f"row {bad[0]}" if len(bad) == 1 else f"{len(bad)} of {len(sizes)} rows, first row {bad[0]},"
            return f"{rows} of {where} hold{'s' if len(bad) == 1 else ''} NaN or inf"
        top, usual = float(sizes.max()), float(sizes.median())
        # (of two rows nobody can say which one is unusual)
        if len(sizes) > 2 and usual > 0 and top > factor * usual:
            row = int(sizes.argmax())
            return f"row {row} of {where} holds values up to {top:.3g}, {top / usual:.1g} times those of the others"
    return ""


def of_exception(error: BaseException) -> dict[str, Any]:
    """Return type, message and the innermost frames.

    >>> of_exception(ValueError("boom"))
    {'type': 'ValueError', 'message': 'boom', 'where': []}
    """
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    where = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return {"type": type(error).__name__, "message": str(error)[:2000], "where": where}


def as_text(report: Mapping[str, Any]) -> str:
    """Return the page of text.

    >>> print(as_text({"why": "an alarm", "step": 7, "rates": [0.1]}))
    Training ended: an alarm
    <BLANKLINE>
    step: 7
    rates: 0.1
    """
    lines = [f"Training ended: {report.get('why', 'unknown')}", ""]
    for name, value in report.items():
        if name == "why" or value in (None, [], {}):
            continue
        title = name.replace("_", " ")
        if isinstance(value, Mapping):
            lines += [f"{title}:", *(f"  {k}: {_shown(v)}" for k, v in value.items() if v not in (None, []))]
        elif (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and any(isinstance(v, (Mapping, str)) for v in value)
        ):
            lines += [f"{title}:", *(f"  - {_shown(v)}" for v in value)]
        else:
            lines.append(f"{title}: {_shown(value)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_shown(v) for v in value)
    return str(value)


def plain(value: Any) -> Any:
    """Return what JSON can hold: NaN and inf as text, tensors as lists, anything else as text.

    >>> plain({"loss": float("nan"), "rows": (1, 2)})
    {'loss': 'nan', 'rows': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def write(report: Mapping[str, Any], folder: Path) -> Path:
    """Write both files, each at once, and return the path of the page of text.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((JSON_NAME, json.dumps(plain(report), indent=1)), (TEXT_NAME, as_text(report))):
        part = folder / f"{name}.part"
        part.write_text(text + "\n", encoding="utf-8")
        # (whoever reads it finds the old file or the new one, also when the process is killed meanwhile)
        os.replace(part, folder / name)
    return folder / TEXT_NAME
