"""Leak police: a test that leaves something behind fails, where it did so."""

from __future__ import annotations

import os

# Workers share two cores: with a pool of threads each, they wait for one another. Torch reads this when imported,
# and the tests' child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import importlib.metadata
import logging
import random
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_tricks.precision.plugins import cache_is_safe
from tests import thorough
from tests.missing import missing

_LOGGERS = [
    name + more
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric")
    for more in ("", ".utilities.rank_zero")
]
collect_ignore = ["frozen.py"]  # (its import is meant for other processes)
_LEFT_OUT = pytest.StashKey[dict[str, list[str]]]()
_IGNORED_THREADS = ("QueueFeederThread", "pytest_timeout", "pin_memory", "execnet", "tqdm_monitor")


def _threads() -> set[str]:
    names = {t.name for t in threading.enumerate() if not t.name.startswith(("Dummy", *_IGNORED_THREADS))}
    # TensorBoard's server, still answering; torch 2.6's pool of compilers, which stays
    return {name for name in names if "process_request_thread" not in name and "_read_thread" not in name}


def _settings() -> dict[str, Any]:
    return {
        "environment": {k: v for k, v in os.environ.items() if k not in ("PYTEST_CURRENT_TEST",)},
        "signal handlers": {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)},
        "grad mode": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads of torch": torch.get_num_threads(),
        "levels of loggers": {name: logging.getLogger(name).level for name in _LOGGERS},
        "process group": torch.distributed.is_initialized(),
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run what takes long")
    parser.addoption(
        "--strangers", action="store_true", help="also train published packages (./dev strangers has them)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell modules that are collected whether the slow tests run."""
    thorough.SLOW = _is_asked_for("slow", config)


def _is_asked_for(marker: str, config: pytest.Config) -> bool:
    return bool(config.getoption(marker, False)) or marker in config.getoption("markexpr", default="").split()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files whose packages are not installed: ``pytest -m gpu`` runs on a machine that has few."""
    if collection_path.suffix != ".py" or collection_path.name == "conftest.py":
        return None
    package = missing(collection_path)
    if package is not None:
        config.stash.setdefault(_LEFT_OUT, {}).setdefault(package, []).append(collection_path.name)
    return None if package is None else True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was left out."""
    if not _is_asked_for("slow", config):
        terminalreporter.write_line("left out: the slow tests; --slow runs them too")
    for package, files in config.stash.get(_LEFT_OUT, {}).items():
        terminalreporter.write_line(f"left out, since {package} is not installed: {len(files)} files, as {files[0]}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow and what trains packages of others, unless asked for; and skip what needs autocast's weight
    cache where CachedMixedPrecision refuses it: tests, doctests, pages of the docs.

    What is left out is deselected, since to skip thousands of tests one by one takes seconds and hides the other skips.
    Where tests are named one by one, they are skipped, so that the reason can be read.
    """
    slow = pytest.mark.skip(reason="slow: takes long, and has a small sibling; --slow runs it")
    cache = pytest.mark.skip(reason="this torch loses gradients with a weight cache")
    strangers = pytest.mark.skip(reason="strangers: trains published packages; ./dev strangers installs and runs them")
    marked = {"slow": slow, "strangers": strangers}
    unasked = {name: skip for name, skip in marked.items() if not _is_asked_for(name, config)}
    named = any("::" in argument for argument in config.args)
    left_out = []
    for item in items:
        for name, skip in unasked.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)
                left_out.append(item)
                break
        caching = item.get_closest_marker("cache") or re.search(
            r"\[.*CachedMixedPrecision|\.(CachedMix|cache_is)", item.nodeid
        )
        if caching and not cache_is_safe():
            item.add_marker(cache)
    if left_out and not named:
        gone = {id(item) for item in left_out}
        items[:] = [item for item in items if id(item) not in gone]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Leave what the session holds for good out of every search for garbage.

    These are millions of objects: a search takes half a second with them, and some callbacks make one in each dry run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leak_police(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, with a seed; compare global state before and after."""
    monkeypatch.chdir(tmp_path)
    random.seed(0)
    torch.manual_seed(0)
    threads, settings = _threads(), _settings()
    yield
    after = _settings()
    # Lightning itself sets these when it seeds or counts workers, torch 2.6 the last one when it compiles
    allowed = {"PL_GLOBAL_SEED", "PL_SEED_WORKERS", "KINETO_LOG_LEVEL", "CUBLAS_WORKSPACE_CONFIG"}
    allowed |= {"TORCHINDUCTOR_CACHE_DIR", "CUDA_DEVICE_ORDER"}  # the latter where a Trainer takes a GPU
    for name, before in settings.items():
        now = after[name]
        if name == "environment":
            now, before = ({k: v for k, v in x.items() if k not in allowed} for x in (now, before))
        assert now == before, f"the test left {name} changed: {before!r} -> {now!r}"
    left = _threads() - threads
    assert not left, f"the test left threads running: {left}"


@pytest.fixture(scope="session", autouse=True)
def entry_points_are_read_once() -> Iterator[None]:
    """Remember the entry points of the environment for the session.

    Lightning reads the metadata of every installed package for each Trainer, which takes 3 ms, a third of a small fit.
    """
    real, known = importlib.metadata.entry_points, {}

    def remembered(**parameters: Any) -> Any:
        key = (tuple(sys.path), tuple(sorted(parameters.items())))
        if key not in known:
            known[key] = real(**parameters)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.endswith("fabric.utilities.registry") and getattr(module, "entry_points", None) is real:
                patch.setattr(module, "entry_points", remembered)
        yield


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine, and questions about names, which leave it too."""
    real, real_name = socket.socket.connect, socket.getaddrinfo
    here = ("127.0.0.1", "::1", "localhost")

    def connect(self: socket.socket, address: Any) -> Any:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and host not in here:
            raise AssertionError(f"a test tried to connect to {address!r}")
        return real(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (None, "", "0.0.0.0", *here):
            raise AssertionError(f"a test asked for the address of {host!r}")
        return real_name(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
