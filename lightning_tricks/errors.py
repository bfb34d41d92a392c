"""Errors of the pack, and the one form that their messages have.

TrickError(RuntimeError)        something found at fit start or while training
├── ConflictError               two writers want the same thing
├── UnsupportedError            this strategy, optimizer or setting is refused, by name
│   └── NotRestorableError      user code may not run a second time: something it changes cannot be put back
├── RunEndsError                the user asked for the run to end here: no guard of an observer holds it back
└── NonFiniteError              gradients hold NaN or inf, and the user asked to stop

Bad arguments raise ``ValueError`` or ``TypeError`` at construction, with the same form of message::

    GradientClip(rule=-1.0): max_norm must be > 0 and finite. Use e.g. 1.0, or GradientMonitor to only watch.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable, Sequence

import torch


class TrickError(RuntimeError):
    """A setting cannot work in this run, or the run must not go on."""


class ConflictError(TrickError):
    """Two writers want the same thing; the message names both."""


class UnsupportedError(TrickError):
    """A strategy, optimizer or setting that is refused by name."""


class NotRestorableError(UnsupportedError):
    """User code may not run a second time, since something that it might change cannot be put back.

    Args:
        what: which attribute, and why.
        root: the name of the root that holds it.
    """

    remedy = "Let a callback of yours hold it, or leave this callback out"

    def __init__(self, what: str, root: str = "") -> None:
        super().__init__(f"{what}, so that a dry run would leave a trace. {self.remedy}.")
        self.what, self.root = what, root


class RunEndsError(TrickError):
    """The user asked for the run to end in such a case; no guard of an observer holds it back."""


class NonFiniteError(TrickError):
    """Gradients hold NaN or inf and the policy is to stop."""


def message(owner: str, argument: str, value: object, rule: str, remedy: str) -> str:
    """Return a message in the one form of this package: where, which value, which rule, what to do.

    >>> print(message("ClipNorm", "max_norm", 0, "max_norm must be > 0", "Use e.g. 1.0"))
    ClipNorm(max_norm=0): max_norm must be > 0. Use e.g. 1.0.
    """
    end = "" if remedy.endswith("?") else "."
    return f"{owner}({argument}={shown(value)}): {rule.rstrip('.')}. {remedy.rstrip('.')}{end}"


def shown(value: object) -> str:
    """Return a value as a message shows it: on one line, and not longer than a reader wants.

    >>> shown("a" * 1000) == "'" + "a" * 119 + "..." + "a" * 39 + "'", shown([0] * 10_000)
    (True, '[0, 0, 0, 0, 0, 0, ...]')
    """
    try:
        # (the whole text of a large list would take long to make, only to be cut)
        huge = isinstance(value, (str, bytes, list, tuple, dict, set)) and len(value) > 1000
        text = " ".join((reprlib.repr if huge else repr)(value).split())
    except Exception:  # of a class of the user's
        text = f"<{type(value).__name__}>"
    return shortened(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shape"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # Lightning's own test wants to read "CUDA" too, and so misses ROCm, Apple's GPUs and a cuBLAS that got no memory.
    signs = ("out of memory", "cublas_status_alloc_failed", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


def in_one_line(error: BaseException) -> str:
    r"""Return an error's text on one line, without its middle where it is long.

    >>> in_one_line(ValueError("a\n  b"))
    'a b'
    """
    try:
        return shortened(" ".join(str(error).split()))
    except Exception:  # of a class of the user's
        return "no readable message"


def shortened(text: str) -> str:
    """Return a string without its middle, where it is long.

    >>> shortened("short")
    'short'
    """
    return text if len(text) <= 200 else f"{text[:120]}...{text[-40:]}"


def listed(names: Sequence[str], most: int) -> str:
    """Return names as a message lists them: the first ones, and how many more there are.

    >>> listed(["a", "b", "c"], 2), listed([], 2)
    ('a, b and 1 more', '')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def require_number(
    owner: str,
    argument: str,
    value: object,
    *,
    low: float = 0.0,
    high: float = math.inf,
    low_included: bool = False,
    high_included: bool = False,
    remedy: str,
) -> float:
    """Return ``value`` as float, or raise when it is not a finite number between ``low`` and ``high``.

    Raises:
        TypeError: ``value`` is a bool, a str or otherwise no real number.
        ValueError: it is NaN, infinite or out of range.
    """
    left = f"{argument} must be {'>=' if low_included else '>'} {low:g}"
    right = "finite" if math.isinf(high) else f"{'<=' if high_included else '<'} {high:g}"
    rule = f"{left} and {right}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(owner, argument, value, f"{rule}, and a number", remedy))
    number = float(value)
    above = number >= low if low_included else number > low
    below = number <= high if high_included else number < high
    if not (math.isfinite(number) and above and below):
        raise ValueError(message(owner, argument, value, rule, remedy))
    return number


def require_count(owner: str, argument: str, value: object, *, low: int = 1, remedy: str) -> int:
    """Return ``value`` as a whole number >= ``low``, or raise.

    Raises:
        TypeError: ``value`` is not an int, or is a bool.
        ValueError: it is below ``low``.
    """
    rule = f"{argument} must be a whole number >= {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(message(owner, argument, value, rule, remedy))
    if value < low:
        raise ValueError(message(owner, argument, value, rule, remedy))
    return value


def require_choice(owner: str, argument: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` when it is one of ``choices``; else raise and name the nearest."""
    names = list(choices)
    if isinstance(value, str) and value in names:
        return value
    remedy = f"Did you mean {nearest(str(value), names)!r}?" if nearest(str(value), names) else "Use one of these"
    raise ValueError(message(owner, argument, value, f"{argument} must be one of {', '.join(names)}", remedy))


def require_flag(owner: str, argument: str, value: object) -> bool:
    """Return ``value`` when it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(message(owner, argument, value, f"{argument} must be True or False", "Pass a bool"))
    return value


def is_list(value: object) -> bool:
    """Whether a value stands for a list: also where a config of another library holds it, as Hydra's do.

    >>> is_list(["head"]), is_list(("head",)), is_list("head")
    (True, True, False)
    """
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the one of ``names`` most like ``name``, for a misspelt one; None when none reaches ``cutoff``, of 0 to 1.

    >>> nearest("encodr.weight", ["encoder.weight", "head.bias"])
    'encoder.weight'
    """
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return found[0] if found else None
