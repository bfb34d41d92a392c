from __future__ import annotations

from typing import get_args

import pytest

from lightning_tricks.publishing.statement import Outcome
from lightning_tricks.report import rendering
from lightning_tricks.report.blocks import Block, Bullets, Conclusion, Heading, Level, Paragraph, Picture, Table

EXAMPLES = [
    Conclusion("good", "words", "words"),
    Heading("words"),
    Paragraph("words"),
    Bullets(("words",)),
    Table(("words",), ()),
    Picture("name", "words", b"PNG"),
]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: type(block).__name__)
def test_every_kind_of_block_is_written_down(block: Block) -> None:
    assert "words" in rendering.as_html("run", [block])


def test_there_are_no_other_kinds_and_every_level_has_a_colour() -> None:
    assert {type(block) for block in EXAMPLES} == set(get_args(Block))
    assert {outcome.value for outcome in Outcome} == set(get_args(Level))
    assert len({outcome.color for outcome in Outcome}) == len(Outcome)
