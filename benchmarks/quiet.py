"""Trainers made by the dozen say nothing: Lightning's loggers are silent for a time, and speak again afterwards."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch

_LOGGERS = [
    name + more
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric")
    for more in ("", ".utilities.rank_zero")
]


@contextlib.contextmanager
def loggers_silent() -> Iterator[None]:
    """Let Lightning's loggers pass errors only; their levels are put back at the end."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Use one thread, and let only errors of Lightning be printed; both are put back at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with loggers_silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
