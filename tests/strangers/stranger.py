"""What the tests know of a package: how to train one of its models, and what is special about it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest

QUIET: Mapping[str, Any] = MappingProxyType(
    {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 2,
    }
)
NO_ACTIVATIONS: Mapping[str, str] = MappingProxyType({"DeadUnits": "has no activation modules"})
NOTHING: Mapping[str, Any] = MappingProxyType({})

# callbacks, arguments of the Trainer, the checkpoint to resume from
Train = Callable[[list[Any], Mapping[str, Any], str | None], None]


@dataclass(frozen=True, eq=False)
class Stranger:
    """A model of a published package, and a small training of it.

    Args:
        name: what tests and the docs call it.
        train: trains it as the package's own documentation does. It seeds first: two calls are two equal trainings.
        package: its name on PyPI; None for an example that needs no package.
        imports: the modules that have to be importable.
        namespace: of the Trainer that trains it.
        hidden: whether the package makes the Trainer itself.
        refused: callback -> what its error at the start says; the callback is left out then.
        skipped: callback -> what its warning says; it does not do its work then, and training goes on.
        arguments: callback -> arguments without which it would be refused.
        conflicts: callback -> what its error says beside a default of the package, and that default's name.
        trainer: arguments of the Trainer that take such a default back.
        true_findings: what ``SanityCheck`` rightly finds.
        saved_at: the update (of all optimizers together) after which the run is stopped and resumed.
        not_resumed: what the error says where a checkpoint of the middle of an epoch cannot be resumed exactly.
    """

    name: str
    train: Train
    package: str | None = None
    imports: tuple[str, ...] = ()
    namespace: str = "lightning.pytorch"
    hidden: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    true_findings: tuple[str, ...] = ()
    saved_at: int = 5
    not_resumed: str = ""

    def load(self) -> None:
        """Import it; skip the test that asks where it is not installed."""
        for name in self.imports:
            pytest.importorskip(name, reason=f"{self.package} is not installed; ./dev strangers installs it")


@contextmanager
def resumed_by_hand(namespace: str, checkpoint: str | None) -> Iterator[None]:
    """Hand a checkpoint to a Trainer that a package makes, where the package itself has no argument for it."""
    trainer = importlib.import_module(namespace).Trainer
    fit = trainer.fit

    def resumed(self: Any, *arguments: Any, **named: Any) -> Any:
        return fit(self, *arguments, **{**named, "ckpt_path": checkpoint, "weights_only": False})

    if checkpoint is not None:
        trainer.fit = resumed
    try:
        yield
    finally:
        trainer.fit = fit
