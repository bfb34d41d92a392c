"""The losses of the steps since the last check, on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_tricks.diagnosis.slices import Slices
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun

MOST_LOSSES = 256  # that are kept between two checks


class LossRecord(Stages):
    """Keeps the loss of each backward pass until the next check, and does not wait for it.

    Example:
        >>> record = LossRecord()
        >>> record.on_before_backward(None, None, torch.tensor(2.5))
        >>> record.measure(torch.device("cpu")).shared, record.losses
        ((tensor([2.5000]),), [])
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up the losses since the last check before the checkpoint."""
        if state is not None:
            self.losses = [torch.tensor(x) for x in state["losses"]]

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss."""
        if len(self.losses) < MOST_LOSSES:
            self.losses.append(loss.detach())

    def measure(self, device: torch.device) -> Slices:
        """Return the losses since the last check, and forget them."""
        losses, self.losses = self.losses, []
        return Slices((torch.stack([x.to(device, torch.float32).reshape(()) for x in losses]),))

    def _rolled_back(self, run: TrainingRun) -> None:
        """Losses of other weights are of no use."""
        self.losses = []

    def _trick_state(self) -> dict[str, Any]:
        """The losses, as numbers."""
        return {"losses": [float(x) for x in self.losses]}
