from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks.collapse.reduction import over_all, require_name

ALONE: Any = SimpleNamespace(trainer=SimpleNamespace(world_size=1))


def test_on_one_process_sums_are_what_they_are() -> None:
    gathered = {"a": torch.ones(2, 3), "b": torch.zeros(())}
    assert over_all(ALONE, gathered) is gathered


@pytest.mark.parametrize("value", ["", None, 3, ["encoder"]])
def test_what_is_not_a_name_is_refused_with_an_example(value: Any) -> None:
    with pytest.raises(TypeError, match=r"DeadUnits\(layer=.*layer must be a name\. Use e\.g\. 'encoder'"):
        require_name("DeadUnits", "layer", value)


def test_a_name_is_returned() -> None:
    assert require_name("DeadUnits", "layer", "net.0") == "net.0"
