"""Imports the package that a test is about before the test begins, and takes back what the import changed.

An import may make folders where it is, warn, set environment variables and (torchrl's) the number of threads.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator

import pytest
import torch

from tests.strangers.stranger import Stranger
from tests.strangers.trainings.training import Training

_LOUD = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Import it, or skip the test; where strangers were not asked for, another skip says so first."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    stranger = parameters.get("stranger", parameters.get("training"))
    if isinstance(stranger, (Stranger, Training)) and not item.get_closest_marker("skip"):
        with _nothing_changed():
            stranger.load()
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def _nothing_changed() -> Iterator[None]:
    threads = torch.get_num_threads()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)
