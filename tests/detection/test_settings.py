from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks import Rollback
from lightning_tricks.detection.settings import WatchSettings


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0, "warn", 3, "10%"), ValueError, "every_n_steps"),
        ((1.5, "warn", 3, "10%"), TypeError, "every_n_steps"),
        ((1, "shout", 3, "10%"), ValueError, "action must be one of"),
        ((1, "warn", 0, "10%"), ValueError, "patience"),
        ((1, "warn", 3, "ten"), ValueError, "grace"),
    ],
)
def test_shared_arguments_are_checked_in_the_name_of_the_detector(arguments: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=rf"Owner\(.*{text}"):
        WatchSettings.checked("Owner", *arguments)


def test_the_word_rollback_is_a_rollback_with_its_defaults() -> None:
    assert WatchSettings.checked("Owner", None, "rollback", 3, 0).action == Rollback()
