from __future__ import annotations

import pytest
import torch

from lightning_tricks import TrickError
from lightning_tricks.numerics.state import fitting, moved


def test_a_copy_shares_no_memory() -> None:
    state = {"version": 1, "a": torch.ones(2), "inner": {"b": torch.ones(1)}}
    copy = moved(state, torch.device("cpu"))
    copy["a"].zero_()
    copy["inner"]["b"].zero_()
    assert state["a"].tolist() == [1.0, 1.0]
    assert state["inner"]["b"].tolist() == [1.0]


def test_a_state_of_another_model_is_refused() -> None:
    fresh = {"version": 1, "a": torch.zeros(3)}
    assert fitting("X", {"version": 1, "a": torch.ones(3)}, fresh)["a"].sum() == 3
    for other in ({"version": 1, "a": torch.zeros(2)}, {"version": 1, "b": torch.zeros(3)}):
        with pytest.raises(TrickError, match="Resume with the same model and rule"):
            fitting("X", other, fresh)
