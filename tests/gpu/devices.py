"""Every test of this folder runs on a CUDA device where there is one, and plays on the CPU what can be played there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.rows import Context

_MISSING = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, _MISSING])
everywhere = pytest.mark.parametrize("device", [CUDA, "cpu"])
only_cuda = pytest.mark.parametrize("device", [CUDA])


def context(device: str) -> Context:
    """What the trainings of ``benchmarks.gpu.problems`` run on."""
    return Context(torch.device(device), Path("."))


def of_cuda(*values: Any) -> Any:
    """Parameters with the mark of tests that only a CUDA device can run."""
    return pytest.param(*values, marks=[pytest.mark.gpu, _MISSING])
