"""The named precisions of the benchmark: what the Trainer gets, and torch's process-wide flags around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lightning_tricks import CachedMixedPrecision
from lightning_tricks.precision.fp32_flags import fp32_mode
from lightning_tricks.precision.recommendation import PRECISIONS as MEASURED_BY_ADVICE
from lightning_tricks.precision.recommendation import unavailable

BASES = ("ieee-fp32", "tf32")
DEFAULT = "torch-default"  # as torch comes: matrix products in IEEE float32, cuDNN's convolutions and LSTMs in TF32
PRECISIONS = (*MEASURED_BY_ADVICE[:2], DEFAULT, *MEASURED_BY_ADVICE[2:])
PACK = {"": "", "off": "+pack", "logged": "+pack logged"}
__all__ = ["BASES", "DEFAULT", "PRECISIONS", "Setting", "all_flags"]


@dataclass(frozen=True)
class Setting:
    """One column.

    Args:
        precision: one of ``PRECISIONS``.
        cached: with autocast's weight cache.
        pack: with our callbacks in the Trainer: ``"off"`` measures steps that are not logged, ``"logged"`` those that
            are; empty for none.
        again: the same a second time: what it differs from the first by is noise.
        compiled: with ``torch.compile``.
        contiguous: images in torch's default layout instead of channels_last.
    """

    precision: str
    cached: bool = False
    pack: str = ""
    again: bool = False
    compiled: bool = False
    contiguous: bool = False

    @property
    def name(self) -> str:
        """As it is printed: ``bf16-mixed+cache``, ``bf16-mixed+pack``, ``ieee-fp32 again``."""
        parts = {
            "+cache": self.cached,
            " compiled": self.compiled,
            " contiguous": self.contiguous,
            " again": self.again,
        }
        return self.precision + PACK[self.pack] + "".join(text for text, has in parts.items() if has)

    @property
    def role(self) -> str:
        """What it is measured for: ``main``, ``pack``, ``again``, ``cache``, ``compile``, ``layout``."""
        kinds = {"pack": self.pack, "again": self.again, "cache": self.cached, "compile": self.compiled}
        found = next((name for name, has in kinds.items() if has), None)
        return found or ("layout" if self.contiguous else "main")

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
        cadence = {"off": 10**9, "logged": 1}.get(self.pack)
        more = {} if cadence is None else {"log_every_n_steps": cadence}
        return {"precision": "32-true" if self.precision in (*BASES, DEFAULT) else self.precision, **more}

    @contextmanager
    def flags(self) -> Iterator[None]:
        """Float32 arithmetic as this precision means it, for the whole process; put back afterwards."""
        with fp32_mode(self.precision == "tf32"):
            if self.precision == DEFAULT:
                torch.backends.cudnn.allow_tf32 = True
            yield

    def missing(self, device: torch.device) -> str:
        """Why a device does not have it; empty where it does."""
        if self.precision == DEFAULT:
            return "" if device.type == "cuda" else "the same as ieee-fp32 where there is no cuDNN"
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
