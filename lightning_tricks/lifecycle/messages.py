"""Warnings of the pack, on rank 0, at the place in the user's code that led to them."""

from __future__ import annotations

import warnings

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only


class TrickWarning(UserWarning):
    """A warning of the pack: ``warnings.filterwarnings("error", category=TrickWarning)`` makes all of them errors."""


def warn(owner: str, text: str) -> None:
    """Warn on rank 0, at the place in the user's code that led here.

    Args:
        owner: the trick that speaks.
        text: what is the matter and what to do.
    """
    if getattr(rank_zero_only, "rank", 0) == 0:
        warnings.warn(f"{owner}: {text}", TrickWarning, stacklevel=3)


def inform(text: str) -> None:
    """Write a line on rank 0, where Lightning writes its own."""
    rank_zero_info(text)
