"""Readings of memory: of this process, against the system's own numbers; of an accelerator, by a backend that is made up."""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks.diagnosis.memory_readings import MemoryReader, Reading, host_free_bytes, resident_bytes


def test_the_process_is_at_most_as_large_as_it_ever_was() -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert 1e7 < resident_bytes() <= 1.05 * peak


def test_where_there_is_no_proc_the_peak_is_read(tmp_path: Path) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert resident_bytes(str(tmp_path / "none")) == pytest.approx(peak, rel=0.05)
    (tmp_path / "damaged").write_text("no numbers")
    assert resident_bytes(str(tmp_path / "damaged")) == pytest.approx(peak, rel=0.05)


def test_where_nothing_can_be_read_it_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    none = str(tmp_path / "none")
    assert math.isnan(resident_bytes(none))
    assert math.isnan(host_free_bytes(none, (none, none)))


def test_free_memory_is_within_the_limit_of_a_container(tmp_path: Path) -> None:
    files = {"meminfo": "MemTotal: 9 kB\nMemAvailable: 8000 kB\n", "max": "5000000\n", "current": "1000000\n"}
    paths = {name: tmp_path / name for name in files}
    for name, text in files.items():
        paths[name].write_text(text)
    limits = str(paths["max"]), str(paths["current"])
    assert host_free_bytes(str(paths["meminfo"]), limits) == 4_000_000
    paths["max"].write_text("max\n")
    assert host_free_bytes(str(paths["meminfo"]), limits) == 8_192_000


def backend(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> MemoryReader:
    monkeypatch.setattr(torch, "madeup", SimpleNamespace(**functions), raising=False)
    monkeypatch.setattr(torch, "accelerator", None, raising=False)
    device: Any = SimpleNamespace(type="madeup")
    return MemoryReader(device)


def test_an_accelerator_is_asked_by_what_its_backend_has(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = backend(
        monkeypatch,
        memory_allocated=lambda device: 100,
        memory_reserved=lambda device: 150,
        max_memory_allocated=lambda device: 120,
        mem_get_info=lambda device: (30, 200),
    )
    reading = reader.read()
    assert (reading.allocated, reading.reserved, reading.peak, reading.device_free) == (100, 150, 120, 30)
    assert (reading.on_device, reading.used, reading.free) == (True, 100, 80)


def test_a_backend_without_devices_is_asked_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = backend(
        monkeypatch,
        current_allocated_memory=lambda: 100,
        driver_allocated_memory=lambda: 150,
        recommended_max_memory=lambda: 1000,
    )
    reading = reader.read()
    assert (reading.allocated, reading.reserved, reading.device_free) == (100, 150, 850)
    assert math.isnan(reading.peak)


def test_a_backend_that_cannot_tell_or_fails_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: Any) -> int:
        raise RuntimeError("no context")

    reading = backend(monkeypatch, memory_allocated=fails, mem_get_info=fails).read()
    assert not reading.on_device and math.isnan(reading.device_free)
    assert reading.used == reading.resident > 0


def test_the_device_agnostic_functions_are_asked_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = backend(monkeypatch)
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(memory_allocated=lambda device: 7), raising=False)
    assert reader.read().allocated == 7


def test_what_is_not_known_is_no_limit() -> None:
    assert Reading(resident=1.0).free == math.inf
    assert Reading(resident=1.0, host_free=5.0).free == 5.0
    assert Reading(allocated=1.0).free == math.inf
    assert Reading(allocated=1.0, device_free=5.0).free == 5.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_tensor_is_seen_in_what_is_allocated() -> None:
    reader = MemoryReader(torch.device("cuda"))
    before = reader.read()
    kept = torch.zeros(2**20, device="cuda")
    after = reader.read()
    assert after.allocated - before.allocated == kept.nbytes
    assert after.device_free > 0 and after.reserved >= after.allocated
