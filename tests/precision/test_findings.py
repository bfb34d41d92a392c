from __future__ import annotations

import io

import pytest
from rich.console import Console

from lightning_tricks.precision import skips
from lightning_tricks.precision.findings import Finding, Findings, as_table, islands_or_bfloat16


def test_kinds_are_checked() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        Finding("bad luck", "", "", "", 0)


def test_findings_are_sorted_by_weight_and_survive_a_checkpoint() -> None:
    found = Findings()
    assert found.add(skips.too_large(4.0, [], 1))
    assert found.add(skips.backward_overflow(1.0, ["w"], 9, 5))
    assert not found.add(skips.too_large(2.0, [f"p{i}" for i in range(9)], 7))
    twin = Findings([Finding(**vars(f)) for f in found])
    assert [(f.kind, f.times, f.step) for f in twin] == [("backward overflow", 1, 5), ("loss scale too large", 2, 1)]
    assert len(twin) == 2
    assert "p5 and 3 more" in list(twin)[1].text


def test_a_table_puts_modules_with_the_same_fault_in_one_row() -> None:
    same = [Finding("underflow", f"block.{i}", "60 % of its gradients", "Use bf16-mixed", i) for i in range(5)]
    table = as_table([Finding("forward overflow", "head", "its output was inf", "Use FP32Islands", 3), *same])
    console = Console(width=300, record=True, quiet=True)
    with console.capture():
        console.print(table)
    assert table.row_count == 2
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["forward overflow", "underflow"]
    assert cells[1] == ["head", "block.0, block.1, block.2 and 2 more"]
    assert cells[2] == ["3", "0"]


def test_a_narrow_terminal_breaks_a_remedy_and_does_not_cut_it_off() -> None:
    advice = "Use FP32Islands(['encoder.layers.11.attention']) or precision='bf16-mixed'"
    console = Console(width=70, record=True, file=io.StringIO())
    console.print(as_table([Finding("forward overflow", "encoder", "its output was inf", advice, 3)]))
    lines = [line.split("│")[6].strip() for line in console.export_text().splitlines() if line.startswith("│")]
    assert "".join(lines).replace(" ", "") == advice.replace(" ", "")


def test_the_advice_depends_on_whether_the_run_is_in_float16() -> None:
    assert islands_or_bfloat16("head") == "Use FP32Islands(['head']) or precision='bf16-mixed'"
    assert islands_or_bfloat16("head", half=False).startswith("Under 16-mixed it would need FP32Islands(['head'])")
