"""What the tests know of a small training around the modules, losses and samplers of a package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as L
import pytest

from tests.strangers.stranger import QUIET

TRAINER: Mapping[str, Any] = {**QUIET, "log_every_n_steps": 10, "enable_checkpointing": False}


@dataclass(frozen=True)
class Ready:
    """Everything that one run needs, made after the seed was set.

    Args:
        module: the LightningModule.
        loader: its training data, or several loaders.
        score: what the trained module is worth on data that training does not see; higher is better.
        validation: the validation data; None for none.
        trainer: arguments of the Trainer, the number of epochs among them.
    """

    module: L.LightningModule
    loader: Any
    score: Callable[[], float]
    validation: Any = None
    trainer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Training:
    """A training as somebody writes it who reads the documentation of a package, or who makes one mistake with it.

    Args:
        name: what tests call it.
        make: builds what one run needs.
        imports: the modules that have to be importable.
        bar: the score that a training has to reach to be worth something.
        watch: detector -> its arguments, as a user of this model would add them.
        activations: whether it has activation modules; ``DeadUnits`` refuses a model that has none.
        mistake: what is wrong with it, in words; empty for a healthy one.
    """

    name: str
    make: Callable[[], Ready]
    imports: tuple[str, ...]
    bar: float
    watch: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    activations: bool = True
    mistake: str = ""

    @property
    def healthy(self) -> bool:
        """Whether it is written as the documentation says."""
        return not self.mistake

    def load(self) -> None:
        """Import what it needs; skip the test that asks where that is not installed."""
        for name in self.imports:
            pytest.importorskip(name, reason=f"{name} is not installed; ./dev strangers installs it")

    def run(self, callbacks: list[Any], seed: int = 0) -> Ready:
        """Train it beside these callbacks; return what was trained."""
        L.seed_everything(seed, verbose=False)
        ready = self.make()
        trainer = L.Trainer(callbacks=callbacks, **{**TRAINER, **ready.trainer})
        trainer.fit(ready.module, ready.loader, ready.validation)
        return ready
