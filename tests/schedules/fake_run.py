"""What the planning of a schedule reads of a run: numbers, and no Trainer."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from lightning_tricks.optimizer_step.step_clock import StepClock


def fake_run(
    *,
    epochs: int = 4,
    batches: float = 10,
    steps: int = -1,
    manual: bool = False,
    optimizers: int = 1,
    done: int = 0,
    epoch: int = 0,
    trial: bool = False,
) -> Any:
    """A run whose optimizers have made ``done`` updates each."""
    clock = StepClock()
    clock.set_applied([done] * optimizers)
    clock.start(optimizers)
    step = SimpleNamespace(current=SimpleNamespace(completed=done % batches if math.isfinite(batches) else 0))
    progress = SimpleNamespace(optim_progress=SimpleNamespace(optimizer=SimpleNamespace(step=step)))
    trainer = SimpleNamespace(
        max_epochs=epochs,
        max_steps=steps,
        num_training_batches=batches,
        accumulate_grad_batches=1,
        callbacks=[],
        optimizers=[object()] * optimizers,
        lightning_module=SimpleNamespace(automatic_optimization=not manual),
        current_epoch=epoch,
        global_step=done * optimizers,
        fast_dev_run=trial,
        world_size=1,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(automatic_optimization=progress)),
    )
    views = [SimpleNamespace(index=index) for index in range(optimizers)]
    return SimpleNamespace(trainer=trainer, clock=clock, views=views)
