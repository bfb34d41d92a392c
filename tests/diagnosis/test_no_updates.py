from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch

from lightning_tricks import TrainingDoctor, TrickWarning
from lightning_tricks.diagnosis.no_updates import IDLE_BATCHES


class Manual(L.LightningModule):
    """Steps at every so many batches, or never."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.every = torch.nn.Linear(4, 1), every

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.net(batch).square().mean()
        self.manual_backward(loss)
        if self.every and batch_idx % self.every == self.every - 1:
            self.optimizers().step()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(every: int, batches: int) -> TrainingDoctor:
    doctor, off = TrainingDoctor(10), {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    data: Any = torch.utils.data.DataLoader(torch.randn(batches, 4), batch_size=1)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[doctor], enable_model_summary=False, **off)
    trainer.fit(Manual(every), data)
    return doctor


def test_a_module_that_never_steps_is_told_of_after_a_hundred_batches_and_once() -> None:
    with pytest.warns(TrickWarning, match="TrainingDoctor: .*") as said:
        doctor = train(0, 3 * IDLE_BATCHES)
    assert len([w for w in said if issubclass(w.category, TrickWarning)]) == 1
    assert doctor.verdict.alarmed and "step" in " ".join((*doctor.verdict.reasons, *doctor.verdict.advice))


@pytest.mark.parametrize(("every", "batches"), [(1, 150), (90, 150), (0, IDLE_BATCHES - 1)])
def test_one_that_steps_now_and_then_and_a_short_run_are_left_alone(every: int, batches: int) -> None:
    assert not train(every, batches).alarms
