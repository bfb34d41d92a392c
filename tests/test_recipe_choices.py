from __future__ import annotations

from lightning_tricks import GradientClip
from lightning_tricks.recipe_choices import named, tricks


def test_every_public_callback_can_be_named() -> None:
    assert "GradientClip" in tricks() and named("GradientClip") is GradientClip
