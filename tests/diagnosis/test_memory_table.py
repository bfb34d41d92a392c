"""The table of memory and the ladder of remedies: made-up numbers, and what is written to files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_tricks.diagnosis.memory_table import MemoryReport, MemoryTable, remedies, write

GB = 1e9
TABLE: dict[str, Any] = {
    "weights": 4 * GB, "gradients": 4 * GB, "optimizer_state": 8 * GB, "buffers": 0.1 * GB,
    "activations": {f"blocks.{i}": 1 * GB for i in range(16)}, "batch": 0.2 * GB, "sequence": 512, "samples": 8,
    "samples_noted": 8, "optimizer": "AdamW",
}  # fmt: skip


def saving(what: str, **changed: Any) -> float | None:
    """What the remedy that begins so would save; None where it is not offered."""
    found = [r.saves for r in remedies(MemoryTable(**{**TABLE, **changed})) if r.what.startswith(what)]
    return found[0] if found else None


def test_each_remedy_is_estimated_from_the_part_that_it_shrinks() -> None:
    assert saving("halve the batch") == pytest.approx(0.5 * 16.2 * GB)
    assert saving("halve the sequences") == pytest.approx(0.5 * 16.2 * GB)
    assert saving("precision=") == pytest.approx(8 * GB - 2 * GB)
    assert saving("checkpoint") == pytest.approx(16 * GB * (1 - 2 / 4))
    assert saving("an optimizer with 8-bit") == pytest.approx(6 * GB)
    assert saving("fused=True", foreach=True) == pytest.approx(4 * GB)
    assert saving("free what module.losses keeps", kept={"module.losses": 3 * GB}) == pytest.approx(3 * GB)
    assert saving("PYTORCH_CUDA_ALLOC_CONF", reserved_unused=5 * GB) == pytest.approx(5 * GB)


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("halve the batch", {"samples": 1}),
        ("halve the sequences", {"sequence": None}),
        ("halve the sequences", {"sequence": 1}),
        ("precision=", {"half": True}),
        ("precision=", {"activations": {}}),
        ("checkpoint", {"checkpointed": True}),
        ("checkpoint", {"activations": {"net": 9 * GB}}),
        ("an optimizer with 8-bit", {"optimizer": "SGD"}),
        ("fused=True", {"foreach": False}),
        ("free what", {"kept": {}}),
        ("PYTORCH_CUDA_ALLOC_CONF", {"reserved_unused": 0.1 * GB}),
    ],
)
def test_a_remedy_that_would_not_help_is_not_offered(what: str, changed: dict[str, Any]) -> None:
    assert saving(what, **changed) is None


def test_activations_are_scaled_to_the_batch_that_failed() -> None:
    table = MemoryTable(**{**TABLE, "samples": 32})
    assert table.active == pytest.approx(64 * GB)
    assert next(iter(table.parts())) == "activations of a step"
    assert MemoryTable(**{**TABLE, "samples": None}).active == pytest.approx(16 * GB)


def test_the_page_names_every_part_the_modules_and_the_remedies(tmp_path: Path) -> None:
    table = MemoryTable(**{**TABLE, "kept": {"module.losses": 3 * GB}})
    used = {"allocated": 30 * GB, "peak": math.nan}
    report = MemoryReport(
        "OutOfMemoryError: no", 7, table, remedies(table), used, ("[0]: float32 [8, 64]",), ("a grows",)
    )
    path = write(report, tmp_path / "run")
    text, plain = path.read_text(), json.loads((tmp_path / "run" / "memory.json").read_text())
    for words in ("OutOfMemoryError: no", "step: 7", "allocated: 27.9 GiB", "optimizer state (AdamW)", "blocks.11",
                  "4 more", "module.losses", "float32 [8, 64]", "a grows", "halve the batch"):  # fmt: skip
        assert words in text, words
    assert "peak" not in text and "nan" not in text
    assert plain["parts"]["weights"] == 4 * GB and plain["used"]["peak"] is None
    assert plain["table"]["activations"]["blocks.3"] == GB
    assert [r["saves"] for r in plain["remedies"]] == [r.saves for r in report.remedies]
    assert sorted(p.name for p in path.parent.iterdir()) == ["memory.json", "memory.txt"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write(MemoryReport("why", 0, MemoryTable()), tmp_path / "file" / "run")
