from __future__ import annotations

import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_only

from lightning_tricks import TrickWarning
from lightning_tricks.lifecycle.messages import warn


def test_a_warning_names_its_owner_and_comes_from_rank_zero_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(TrickWarning, match="GradientClip: something"):
        warn("GradientClip", "something")
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("GradientClip", "something")
