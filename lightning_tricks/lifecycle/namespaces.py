"""Both namespaces of Lightning, imported without a trace.

The one that is imported last takes Lightning's messages to its own logger. A user of ``lightning`` who silenced that
logger would see them again; so the logger that was there is put back.
"""

from __future__ import annotations

import lightning.pytorch as lightning_pytorch
from lightning_utilities.core import rank_zero

_logger = getattr(rank_zero, "log", None)

import pytorch_lightning  # noqa: E402

setattr(rank_zero, "log", _logger)  # noqa: B010 (a plain assignment would look like one of ours)

__all__ = ["lightning_pytorch", "pytorch_lightning"]
