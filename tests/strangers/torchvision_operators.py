"""A pytest plugin, loaded with ``-p``: lets a torchvision that was built for CUDA be imported beside a torch without it.

The wheel of torchvision on PyPI is built for CUDA. Its compiled part does not load beside a CPU build of torch; then
``import torchvision`` fails where it describes two operators that the compiled part would have declared, and with it
every package that imports torchvision when it finds it, torchmetrics among them. Two declarations without an
implementation are enough for the rest: networks and transforms are written in Python. Nothing here calls the operators.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: Any, parser: Any, args: list[str]) -> None:
    """Before the first conftest, which imports Lightning, which imports torchmetrics."""
    declare_missing_operators()


def declare_missing_operators() -> None:
    """Declare the operators that the import describes, where the compiled part does not load."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or _loads(Path(spec.submodule_search_locations[0])):
        return
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", _SCHEMA)


def _loads(folder: Path) -> bool:
    try:
        for library in folder.glob("_C*.so"):
            ctypes.CDLL(str(library))
    except OSError:
        return False
    return True
