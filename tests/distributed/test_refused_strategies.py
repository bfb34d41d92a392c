"""Strategies whose gradients nobody can read are refused by name, by every callback, before the first batch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy

from lightning_tricks import UnsupportedError
from tests.problems import Classifier, loader, trainer
from tests.together.problems import CALLBACKS, example

REASONS = {
    "DeepSpeedStrategy": "its engine keeps gradients and schedule to itself. Set them in the DeepSpeed config",
    "FSDPStrategy": "FSDP1 keeps flat shards without names. Use ModelParallelStrategy (FSDP2)",
    "XLAFSDPStrategy": "its gradients cannot be read. Use ModelParallelStrategy (FSDP2)",
}


def fake(name: str, derived: bool) -> Strategy:
    """A strategy of that name that runs anywhere; ``derived`` for a user's own class built on it."""
    cls: Any = type(name, (SingleDeviceStrategy,), {})
    return (type("Ours", (cls,), {}) if derived else cls)("cpu")


class Begins(L.Callback):
    """Notes whether training began."""

    begun = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun = True


@pytest.mark.parametrize("derived", [False, True], ids=["itself", "derived"])
@pytest.mark.parametrize("strategy", REASONS)
@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_refuses_it_by_name(name: str, strategy: str, derived: bool) -> None:
    begins, module = Begins(), Classifier()
    with pytest.raises(UnsupportedError) as refusal:
        trainer([example(name), begins], strategy=fake(strategy, derived)).fit(module, loader(16))
    assert str(refusal.value) == f"{name}: {strategy} is not supported: {REASONS[strategy]}."
    assert not begins.begun and module.seen == 0


def test_lightning_has_strategies_of_these_names() -> None:
    from lightning.fabric import strategies as of_fabric
    from lightning.pytorch import strategies

    assert all(hasattr(strategies, name) or hasattr(of_fabric, name) for name in REASONS)


def test_the_strategy_below_them_trains() -> None:
    module = Classifier()
    trainer([example("GradientMonitor")], strategy=fake("Another", derived=True)).fit(module, loader(16))
    assert module.seen == 2
