from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks import DeadUnits
from lightning_tricks.dry_run.kinds import hidden_state, is_handle


@pytest.mark.parametrize(
    ("thing", "handle"),
    [
        (logging.getLogger("x"), True),
        (torch.fx.Graph(), True),
        (DeadUnits(), True),
        (nn.Linear(1, 1), False),
        (torch.optim.SGD([torch.ones(1)]), False),
        (torch.amp.GradScaler("cpu"), False),
        (torch.cuda.amp.GradScaler, False),
    ],
)
def test_handles_are_held_and_not_walked(thing: Any, handle: bool) -> None:
    assert is_handle(thing if isinstance(thing, type) else type(thing)) is handle


def test_memory_outside_of_python_is_told_by_the_size_of_the_class() -> None:
    class Plain:
        pass

    class Slotted(Plain):
        __slots__ = ("a", "b")

    class OfC(functools.partial):  # type: ignore[type-arg]
        pass

    assert hidden_state(Plain) is hidden_state(Slotted) is hidden_state(nn.LSTM) is None
    assert hidden_state(OfC) is functools.partial
