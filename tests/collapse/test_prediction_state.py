from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks.collapse.prediction_state import rows_form


@pytest.mark.parametrize(
    ("sums", "fault"),
    [
        ({}, False),
        ({"logits": torch.zeros(2, 3), "target": torch.zeros(2)}, False),
        ({"output": torch.zeros(2, 3), "values": torch.zeros(2, 3), "part": torch.zeros(2)}, False),
        ({"logits": torch.zeros(2, 3), "values": torch.zeros(2, 3)}, True),
        ({"logits": torch.zeros(2, 3), "target": torch.zeros(2), "part": torch.zeros(2, 1)}, True),
        ("rows", True),
    ],
)
def test_the_form_of_rows_in_a_checkpoint_is_checked(sums: Any, fault: bool) -> None:
    assert (rows_form(sums, "sums") is not None) is fault
