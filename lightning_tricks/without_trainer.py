"""The learning-rate range test and the sanity check in one line, for a module and its data, without a Trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_tricks.diagnosis.callbacks import SanityCheck
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.errors import TrickError, message
from lightning_tricks.lifecycle.lightning_internals import put_trainer, trainer_of
from lightning_tricks.lifecycle.messages import TrickWarning
from lightning_tricks.lifecycle.namespaces import lightning_pytorch, pytorch_lightning
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.lr_finder.callbacks import LRFinder
from lightning_tricks.lr_finder.result import Result
from lightning_tricks.publishing.statement import as_html, as_table, as_text

_LOGGERS = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


def lr_find(module: nn.Module, train_loader: Any = None, **finder_arguments: Any) -> Result:
    """Try learning rates from small to large on a module and its data, and return what was found.

    A silent Trainer runs ``LRFinder`` and ends before the first update. Weights, buffers, random numbers, the device
    and the training modes are as before; the optimizer is made by ``configure_optimizers`` and thrown away.

    Args:
        module: a LightningModule with automatic optimization and one optimizer.
        train_loader: what ``Trainer.fit`` takes: a DataLoader or a LightningDataModule; None for the loaders of the
            module itself.
        finder_arguments: of ``LRFinder``, such as ``num_steps=50`` or ``suggestion="valley"``.

    Returns:
        ``suggestion`` is the rate, ``confident`` and ``reasons`` say whether to believe it, ``plot()`` draws the curve.

    Raises:
        TypeError: the module is not a LightningModule, or ``LRFinder`` has no such argument.
        ValueError: an argument of ``LRFinder`` is out of range.
        TrickError: nothing was swept; the message says why.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> result = lr_find(BoringModel(), num_steps=30)
        >>> len(result.lrs) > 3
        True

    Reference: Smith, 2017, arXiv:1506.01186.
    """
    if "apply" in finder_arguments:
        rule, remedy = "lr_find never sets a rate", "Set result.suggestion yourself, or use LRFinder in a Trainer"
        raise TypeError(message("lr_find", "apply", finder_arguments["apply"], rule, remedy))
    finder = LRFinder(**finder_arguments, apply=False)
    said = _before_the_first_update("lr_find", finder, module, train_loader)
    if finder.result is None:
        raise TrickError(f"lr_find: {said or 'the finder did not run.'}")
    return finder.result


def sanity_check(module: nn.Module, train_loader: Any = None, val_loader: Any = None) -> CheckTable:
    """Ask whether a module can learn from its data at all, and return the answers as a table.

    A silent Trainer runs ``SanityCheck`` and ends before the first update; nothing of the module is changed.

    Args:
        module: a LightningModule.
        train_loader: what ``Trainer.fit`` takes: a DataLoader or a LightningDataModule; None for the loaders of the
            module itself.
        val_loader: for the question whether validation data are new; None to leave it out.

    Returns:
        The answers: ``print`` shows a table with fixes, ``ok`` is whether none failed, ``failed`` has those that did.

    Raises:
        TypeError: the module is not a LightningModule.
        TrickError: nothing was checked; the message says why.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> [check.mark for check in sanity_check(BoringModel()) if check.name == "all parameters learn"]
        ['pass']

    Reference: Karpathy, "A Recipe for Training Neural Networks", 2019.
    """
    check = SanityCheck()
    check.prints = False
    said = _before_the_first_update("sanity_check", check, module, train_loader, val_loader)
    if not check.checks:
        raise TrickError(f"sanity_check: {said or 'the check did not run.'}")
    return CheckTable(tuple(check.checks))


class _End(lightning_pytorch.Callback, pytorch_lightning.Callback):  # type: ignore[misc]  # (as ``Trick``)
    """Ends a fit before its first update, when the callback before it has done its work."""

    def __init__(self, trick: Trick) -> None:
        self._trick = trick

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Let the callback see the validation data, which Lightning makes ready only for a validation."""
        if trainer.enable_validation:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """All callbacks have prepared: that was all."""
        self._trick.run.stop_training()


def _before_the_first_update(owner: str, trick: Trick, module: Any, train_loader: Any, val_loader: Any = None) -> str:
    """Let a callback do what it does before the first update; return what it warned of."""
    namespaces = (lightning_pytorch, pytorch_lightning)
    package = next((n for n in namespaces if isinstance(module, n.LightningModule)), None)
    if package is None:
        rule, remedy = "module must be a LightningModule", "Put the network into one, with training_step"
        raise TypeError(message(owner, "module", type(module).__name__, rule, remedy))
    with _silence() as said, isolate_rng(), _as_before(module):
        trainer = package.Trainer(
            max_epochs=1,
            callbacks=[trick, _End(trick)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0 if val_loader is None else 1.0,
            # (further processes would keep what they find to themselves)
            devices=1,
        )
        if isinstance(train_loader, tuple(n.LightningDataModule for n in namespaces)):
            trainer.fit(module, datamodule=train_loader)
        else:
            trainer.fit(module, train_loader, val_loader)
    return " ".join(str(w.message) for w in said if issubclass(w.category, TrickWarning))


@contextmanager
def _silence() -> Iterator[list[warnings.WarningMessage]]:
    """Keep Lightning's notes and all warnings away from the user; give the warnings."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # (caught, since they are the reason to show where nothing was found)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield said
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _as_before(module: Any) -> Iterator[None]:
    """Put back what a fit changes on a module: its device, its training modes and its Trainer."""
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    device = torch.device("cpu") if first is None else first.device
    # (of each module: parts may be in evaluation mode on purpose)
    modes = {child: child.training for child in module.modules()}
    trainer = trainer_of(module)
    try:
        yield
    finally:
        module.to(device)
        for child, training in modes.items():
            child.training = training
        put_trainer(module, trainer)


@dataclass(frozen=True)
class CheckTable:
    """The answers of ``SanityCheck``, in the order of its experiments.

    Example:
        >>> table = CheckTable((Check("inputs matter", False, "the loss by 0", "follow the input"),))
        >>> table.ok, [check.name for check in table.failed]
        (False, ['inputs matter'])
        >>> print(table)
        FAIL  inputs matter  the loss by 0
              -> follow the input
    """

    checks: Sequence[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks that say that the training cannot work as it is."""
        return [check for check in self.checks if check.passed is False]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def __str__(self) -> str:
        return as_text(self.checks)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        return as_table(self.checks).markdown()

    def _repr_html_(self) -> str:
        return as_html(self.checks)
