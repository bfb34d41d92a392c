"""``python -m tests.faults`` writes ``docs/reliability.md``."""

from pathlib import Path

from tests.faults.table import page

if __name__ == "__main__":
    (Path(__file__).parents[2] / "docs" / "reliability.md").write_text(page())
