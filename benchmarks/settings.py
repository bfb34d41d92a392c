"""The named precisions of the benchmark: what the Trainer gets, and torch's process-wide flags around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lightning_tricks import CachedMixedPrecision
from lightning_tricks.precision.fp32_flags import fp32_mode
from lightning_tricks.precision.recommendation import PRECISIONS, unavailable

BASES = ("ieee-fp32", "tf32")
__all__ = ["BASES", "PRECISIONS", "Setting", "all_flags"]


@dataclass(frozen=True)
class Setting:
    """One column.

    Args:
        precision: one of ``PRECISIONS``.
        cached: with autocast's weight cache.
        pack: with our callbacks in the Trainer.
    """

    precision: str
    cached: bool = False
    pack: bool = True

    @property
    def name(self) -> str:
        """As it is printed: ``bf16-mixed+cache``, ``bf16-mixed bare``."""
        return self.precision + ("+cache" if self.cached else "") + ("" if self.pack else " bare")

    @property
    def dtype(self) -> torch.dtype:
        """In which matrices are multiplied."""
        half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}
        return half.get(self.precision, torch.float32)

    def trainer(self, device: torch.device) -> dict[str, Any]:
        """Arguments of the Trainer."""
        kind = device.type
        if self.cached:
            return {"plugins": [CachedMixedPrecision(self.precision, kind)]}  # type: ignore[arg-type]
        return {"precision": "32-true" if self.precision in BASES else self.precision}

    @contextmanager
    def flags(self) -> Iterator[None]:
        """Float32 arithmetic as this precision means it, for the whole process; put back afterwards."""
        with fp32_mode(self.precision == "tf32"):
            yield

    def missing(self, device: torch.device) -> str:
        """Why a device does not have it; empty where it does."""
        return unavailable(self.precision, device)


def all_flags() -> dict[str, Any]:
    """The flags that decide what float32 means, for the record of a result."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    new = {
        name: getattr(part, "fp32_precision", None)
        for name, part in (("matmul", cuda.matmul), ("conv", getattr(cudnn, "conv", None)), ("rnn", getattr(cudnn, "rnn", None)))
    }  # fmt: skip
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda.matmul.allow_tf32": cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": cudnn.allow_tf32,
        **{f"fp32_precision.{name}": value for name, value in new.items()},
        "cudnn.benchmark": cudnn.benchmark,
        "cudnn.deterministic": cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
