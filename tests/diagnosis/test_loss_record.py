from __future__ import annotations

import torch

from lightning_tricks.diagnosis.loss_record import MOST_LOSSES, LossRecord

CPU = torch.device("cpu")


def test_losses_are_kept_until_they_are_measured_and_only_so_many() -> None:
    record = LossRecord()
    for i in range(MOST_LOSSES + 5):
        record.on_before_backward(None, None, torch.tensor([float(i)], dtype=torch.float64, requires_grad=True))
    (vector,) = record.measure(CPU).shared
    assert vector.tolist() == [float(i) for i in range(MOST_LOSSES)]
    assert vector.dtype == torch.float32 and not vector.requires_grad
    assert record.losses == []


def test_its_state_is_taken_up_and_a_rollback_forgets_it() -> None:
    first, second = LossRecord(), LossRecord()
    first.on_before_backward(None, None, torch.tensor(0.25))
    second._on_start(None, first._trick_state())  # type: ignore[arg-type]
    assert second._trick_state() == {"losses": [0.25]}
    second._rolled_back(None)  # type: ignore[arg-type]
    assert second.losses == []
