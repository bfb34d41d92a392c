from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn

from lightning_tricks import ConflictError, GradientAccumulation, TrickError, UnsupportedError
from lightning_tricks.accumulation.refusals import refuse_at_start, refuse_before_setup
from tests.problems import Classifier

SPLIT = GradientAccumulation(4, on_oom="split").spec


def fake(module: Any = None, window: int = 1, callbacks: Any = (), world: int = 1) -> Any:
    return SimpleNamespace(
        lightning_module=module or Classifier(), accumulate_grad_batches=window, callbacks=callbacks, world_size=world
    )


class OwnBackward(Classifier):
    def backward(self, loss: Any, *args: Any, **kwargs: Any) -> None:
        loss.backward()


def test_another_owner_of_the_window_is_refused() -> None:
    spec = GradientAccumulation(4).spec
    refuse_before_setup(spec, fake())
    with pytest.raises(ConflictError, match=r"GradientAccumulation\(accumulate_grad_batches=2\)"):
        refuse_before_setup(spec, fake(window=2))
    with pytest.raises(ConflictError, match="GradientAccumulationScheduler accumulates too"):
        refuse_before_setup(spec, fake(callbacks=[L.Callback(), GradientAccumulationScheduler({0: 2})]))
    with pytest.raises(UnsupportedError, match="manual optimization steps when the module says so"):
        refuse_before_setup(spec, fake(Classifier(manual=True)))


def test_what_cannot_run_in_parts_is_refused_only_where_it_would_be_split() -> None:
    synced = Classifier(net=nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2)))
    refuse_before_setup(GradientAccumulation(4).spec, fake(OwnBackward()))
    refuse_before_setup(SPLIT, fake(synced))
    with pytest.raises(UnsupportedError, match=r"OwnBackward.backward is overridden"):
        refuse_before_setup(SPLIT, fake(OwnBackward()))
    with pytest.raises(UnsupportedError, match=r"'net.1' is a SyncBatchNorm"):
        refuse_before_setup(SPLIT, fake(synced, world=2))


def test_what_only_the_optimizers_show_is_refused_at_the_start() -> None:
    def run(optimizer: Any, schedulers: Any = (), sharded: bool = False) -> Any:
        strategy = SimpleNamespace(lr_scheduler_configs=list(schedulers))
        views = [SimpleNamespace(optimizer=optimizer, sharded=sharded)]
        return SimpleNamespace(views=views, trainer=SimpleNamespace(strategy=strategy))

    parameters = [nn.Parameter(torch.zeros(1))]
    sgd, lbfgs = torch.optim.SGD(parameters, lr=0.1), torch.optim.LBFGS(parameters)
    refuse_at_start(SPLIT, run(sgd))
    refuse_at_start(GradientAccumulation(4).spec, run(sgd, [object()], sharded=True))
    with pytest.raises(UnsupportedError, match="LBFGS evaluates a window several times"):
        refuse_at_start(SPLIT, run(lbfgs))
    with pytest.raises(TrickError, match="the module's own scheduler overwrites a scaled rate"):
        refuse_at_start(GradientAccumulation(4, lr_scaling="sqrt").spec, run(sgd, [object()]))
    with pytest.raises(UnsupportedError, match=r"sharded parameters \(FSDP2\)"):
        refuse_at_start(SPLIT, run(sgd, sharded=True))
