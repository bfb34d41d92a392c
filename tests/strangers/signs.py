"""What must not be read in a warning of ours, and what has to be."""

from __future__ import annotations

from tests.strangers.stranger import Stranger

DAMAGE = ("switched off", "could not be put back", "dry run failed", "Please report", "could not be checked")


def assert_said(stranger: Stranger, warnings: list[str], names: set[str]) -> None:
    """Nothing was damaged, and exactly those callbacks did not do their work that are known for it."""
    damage = [text for text in warnings if any(sign in text for sign in DAMAGE)]
    assert not damage, damage
    idle = {text.split(":")[0]: text for text in warnings if ": not run" in text}
    assert set(idle) == set(stranger.skipped) & names, idle
    for name, text in idle.items():
        assert stranger.skipped[name] in text, text
