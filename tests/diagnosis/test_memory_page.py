from __future__ import annotations

from lightning_tricks.diagnosis.memory_page import in_short, in_words, kept_of
from lightning_tricks.diagnosis.memory_table import MemoryReport, MemoryTable, remedies
from lightning_tricks.diagnosis.memory_use import BatchSize
from lightning_tricks.dry_run.holdings import Holding


def test_a_batch_is_described_by_what_is_known_of_it() -> None:
    assert in_words(BatchSize(4096, 1024)) == "4 KiB, 1,024 elements"
    assert in_words(BatchSize(4096, 1024, 8, 128)) == "4 KiB, 1,024 elements, 8 samples, sequences of 128"


def test_on_a_device_only_what_keeps_its_memory_counts() -> None:
    held = [
        Holding("host", nbytes=10.0),
        Holding("device", nbytes=10.0, device_bytes=4.0),
        Holding("graphs", nbytes=10.0, graphs=2.0),
    ]
    holdings = {h.name: h for h in held}
    assert kept_of(holdings, on_device=True) == {"device": 4.0, "graphs": 10.0}
    assert kept_of(holdings, on_device=False) == {"host": 10.0, "device": 4.0, "graphs": 10.0}


def test_in_short_the_largest_parts_and_what_would_help_are_named() -> None:
    table = MemoryTable(weights=2**20, gradients=2**20, optimizer_state=2**21, activations={"net.0": 2**24}, samples=8)
    report = MemoryReport("why", 3, table, remedies(table), {}, [], [])
    text = in_short(report)
    assert text.startswith("Memory is in: ") and "weights 1 MiB" in text
    assert f"Try: {remedies(table)[0]}" in text
