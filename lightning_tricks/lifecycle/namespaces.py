"""Both namespaces of Lightning, imported without a trace, and what is Lightning's own in either.

The one that is imported last takes Lightning's messages to its own logger. A user of ``lightning`` who silenced that
logger would see them again; so the logger that was there is put back.
"""

from __future__ import annotations

import inspect
from typing import Any

import lightning.pytorch as lightning_pytorch
from lightning_utilities.core import rank_zero

_logger = getattr(rank_zero, "log", None)

import pytorch_lightning  # noqa: E402

setattr(rank_zero, "log", _logger)  # noqa: B010 (a plain assignment would look like one of ours)

__all__ = ["defined_by_lightning", "lightning_pytorch", "of_lightning", "pytorch_lightning", "trainer_arguments"]


def defined_by_lightning(module: Any, method: str) -> bool:
    """Whether a module's method is Lightning's own, in either namespace, and not overridden."""
    return of_lightning(next(cls for cls in type(module).__mro__ if method in vars(cls)))


def of_lightning(kind: type) -> bool:
    """Whether a class is Lightning's own, in either namespace.

    >>> of_lightning(lightning_pytorch.Trainer), of_lightning(dict)
    (True, False)
    """
    return kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")


def trainer_arguments() -> list[str]:
    """Return the names of the Trainer's arguments.

    >>> "max_epochs" in trainer_arguments()
    True
    """
    return list(inspect.signature(lightning_pytorch.Trainer).parameters)
