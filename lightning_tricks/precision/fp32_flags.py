"""torch's process-wide flags for float32 arithmetic on a GPU: read, set for a while, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_tricks.errors import UnsupportedError


@contextmanager
def fp32_mode(tf32: bool) -> Iterator[None]:
    """Set torch's process-wide flags for float32 arithmetic on a GPU, and put them back.

    Out of the box float32 is three things: matrix products in IEEE float32, but cuDNN's convolutions and recurrent
    networks in TF32. This sets all of them alike, through the interface that Lightning reads too (#21256).

    Args:
        tf32: TF32 (10 bits of mantissa on tensor cores) everywhere; else IEEE float32 everywhere.

    >>> with fp32_mode(True):
    ...     torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    ('high', True)
    """
    before, newer = fp32_flags(), [(part, part.fp32_precision) for part in parts_with_new_flags()]
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        yield
    finally:
        torch.set_float32_matmul_precision(before["matmul"])
        torch.backends.cudnn.allow_tf32 = before["cudnn"]
        for part, value in newer:  # the old interface writes "ieee" where nothing was set
            if part.fp32_precision != value:
                part.fp32_precision = value


def parts_with_new_flags() -> list[Any]:
    """The parts of torch (2.9 and later) whose float32 precision the old interface sets too."""
    backends = torch.backends
    parts = [backends.cuda.matmul, *(getattr(backends.mkldnn, n, None) for n in ("matmul", "conv", "rnn"))]
    parts += [getattr(backends.cudnn, n, None) for n in ("conv", "rnn")]
    return [part for part in parts if hasattr(part, "fp32_precision")]


def fp32_flags() -> dict[str, Any]:
    """Return torch's flags for float32 arithmetic.

    Raises:
        UnsupportedError: they were set through torch's new interface, which the old one cannot read (#21256).
    """
    try:
        return {"matmul": torch.get_float32_matmul_precision(), "cudnn": torch.backends.cudnn.allow_tf32}
    except RuntimeError as error:
        raise UnsupportedError(
            "torch.backends.*.fp32_precision was set in this process, after which torch and Lightning cannot read "
            "float32_matmul_precision (#21256). Use torch.set_float32_matmul_precision instead."
        ) from error
