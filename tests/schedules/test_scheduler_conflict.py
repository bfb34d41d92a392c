from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, StochasticWeightAveraging

from lightning_tricks import ConflictError, LRSchedule
from lightning_tricks.schedules.own_rates import NoScheduler
from lightning_tricks.schedules.scheduler_conflict import (
    SchedulerConflict,
    refuse_weight_averaging,
    remark_on_finetuning,
)


class Module:
    def __init__(self, automatic: bool) -> None:
        self.automatic_optimization = automatic

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=10)


def set_up(conflict: SchedulerConflict, automatic: bool = True) -> Any:
    module = Module(automatic)
    conflict.watch(module)
    optimizer, scheduler = module.configure_optimizers()
    configs = [SimpleNamespace(scheduler=scheduler)]
    return SimpleNamespace(
        lightning_module=module, optimizers=[optimizer], strategy=SimpleNamespace(lr_scheduler_configs=configs)
    )


def test_a_scheduler_of_the_modules_is_refused_by_name() -> None:
    trainer = set_up(SchedulerConflict("error"))
    with pytest.raises(ConflictError, match=r"Module.configure_optimizers returns a scheduler too \(OneCycleLR\)"):
        SchedulerConflict("error").settle(trainer)


@pytest.mark.parametrize("automatic", [True, False])
def test_a_replaced_scheduler_gives_back_the_rate_that_it_had_overwritten(automatic: bool) -> None:
    conflict = SchedulerConflict("replace")
    trainer = set_up(conflict, automatic)
    assert trainer.optimizers[0].param_groups[0]["lr"] != 0.4
    conflict.settle(trainer)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.4
    left = [config.scheduler for config in trainer.strategy.lr_scheduler_configs]
    assert left == [] if automatic else isinstance(left[0], NoScheduler)
    conflict.settle(trainer)  # what stands in for it is no conflict
    conflict.close()
    assert "configure_optimizers" not in vars(trainer.lightning_module)


def test_weight_averaging_with_a_schedule_of_its_own_is_refused() -> None:
    with pytest.raises(ConflictError, match="StochasticWeightAveraging anneals the learning rate too"):
        refuse_weight_averaging(LRSchedule().spec, [StochasticWeightAveraging(swa_lrs=0.1)])
    refuse_weight_averaging(LRSchedule().spec, [LRSchedule()])
    refuse_weight_averaging(LRSchedule(conflict="replace").spec, [StochasticWeightAveraging(swa_lrs=0.1)])


def test_fine_tuning_with_rates_of_its_own_is_named_unless_they_are_to_be_replaced() -> None:
    text = remark_on_finetuning(LRSchedule().spec, [LRSchedule(), BackboneFinetuning()])
    assert text is not None
    assert text.startswith("BackboneFinetuning sets the rate of the backbone at every epoch, and LRSchedule writes")
    assert remark_on_finetuning(LRSchedule(conflict="replace").spec, [BackboneFinetuning()]) is None
    assert remark_on_finetuning(LRSchedule(overrides={"^backbone": 0.1}).spec, [BackboneFinetuning()]) is None
    assert remark_on_finetuning(LRSchedule().spec, [LRSchedule()]) is None
