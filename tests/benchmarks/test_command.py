"""``python -m benchmarks``: every table says what its options are."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import TABLES, main


@pytest.mark.parametrize("table", TABLES)
def test_every_table_shows_its_options(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(["run", table, "--help"])
    assert f"python -m benchmarks run {table}" in capsys.readouterr().out
