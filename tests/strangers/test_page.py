"""The page of the docs says what the tests say. Needs none of the packages."""

from __future__ import annotations

from tests.strangers.cases import strangers
from tests.strangers.defects import DEFECTS
from tests.strangers.packages import STRANGERS
from tests.strangers.page import PAGE, page


def test_the_page_of_the_docs_is_that_of_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.strangers.page writes it"


def test_every_stranger_has_a_name_of_its_own_and_every_defect_is_one_of_theirs() -> None:
    names = [stranger.name for stranger in STRANGERS]
    assert len(set(names)) == len(names)
    assert {name for name, _ in DEFECTS} <= set(names)
    assert len(strangers("observers")) == len(names)
