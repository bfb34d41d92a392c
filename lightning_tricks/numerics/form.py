"""What a state from a checkpoint must look like: described in one place, and checked before any of it is used.

A checkpoint is what somebody sent: keys may be missing, a number may be a string or NaN. A form is a function of a
value and of where it was found; it returns what is wrong, as a sentence, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_tricks.errors import shown

Form = Callable[[Any, str], "str | None"]

_LARGEST = 2**53  # beyond it float64 does not hold every whole number; no count of a training is that large
_LONGEST = 1_000_000  # entries of a list: a damaged or hostile file must not keep the check busy


def _where(where: str, key: object) -> str:
    return f"{where}[{shown(key)}]"


def _not(where: str, what: str, value: object) -> str:
    return f"{where} must be {what}, not {shown(value)}"


def anything(value: Any, where: str) -> str | None:
    """All values."""
    return None


def plain(value: Any, where: str) -> str | None:
    """A number, a string, None, or lists and dicts of them."""
    if isinstance(value, (list, tuple)):
        return list_of(plain)(value, where)
    if isinstance(value, dict):
        return dict_of(plain)(value, where)
    return None if value is None or isinstance(value, (str, int, float)) else _not(where, "a plain value", value)


def count(value: Any, where: str) -> str | None:
    """A count.

    >>> count(True, "updates")
    'updates must be a whole number >= 0, not True'
    """
    # (isinstance would accept True, and a subclass of int whose class a checkpoint would need)
    good = type(value) is int and 0 <= value < _LARGEST
    return None if good else _not(where, "a whole number >= 0", value)


def step(value: Any, where: str) -> str | None:
    """A step: a whole number, -1 before the first."""
    return None if type(value) is int and value == -1 else count(value, where)


def number(value: Any, where: str) -> str | None:
    """A finite number."""
    good = type(value) in (int, float) and math.isfinite(value)
    return None if good else _not(where, "a finite number", value)


def measured(value: Any, where: str) -> str | None:
    """A number that may be NaN or inf, as a loss may be."""
    return None if type(value) in (int, float) else _not(where, "a number", value)


def positive(value: Any, where: str) -> str | None:
    """A finite number > 0."""
    good = number(value, where) is None and value > 0
    return None if good else _not(where, "a finite number > 0", value)


def least_zero(value: Any, where: str) -> str | None:
    """A finite number >= 0."""
    good = number(value, where) is None and value >= 0
    return None if good else _not(where, "a finite number >= 0", value)


def factor(value: Any, where: str) -> str | None:
    """A number in (0, 1]."""
    good = number(value, where) is None and 0 < value <= 1
    return None if good else _not(where, "a number > 0 and <= 1", value)


def rate(value: Any, where: str) -> str | None:
    """A learning rate or a weight decay: one beyond a million is damage."""
    good = number(value, where) is None and 0 <= value <= 1e6
    return None if good else _not(where, "a number >= 0 and <= 1e6", value)


def flag(value: Any, where: str) -> str | None:
    """True or False."""
    return None if isinstance(value, bool) else _not(where, "True or False", value)


def text(value: Any, where: str) -> str | None:
    """A string."""
    return None if isinstance(value, str) else _not(where, "a string", value)


def tensor(value: Any, where: str) -> str | None:
    """A tensor."""
    return None if isinstance(value, Tensor) else _not(where, "a tensor", value)


def none_or(form: Form) -> Form:
    """None or what ``form`` says."""
    return lambda value, where: None if value is None else form(value, where)


def one_of(*choices: str) -> Form:
    """One of some strings."""

    def check(value: Any, where: str) -> str | None:
        good = isinstance(value, str) and value in choices
        return None if good else _not(where, f"one of {', '.join(choices)}", value)

    return check


def list_of(form: Form, length: int | None = None) -> Form:
    """A list, of that length.

    >>> list_of(count)([1, "2"], "steps")
    "steps[1] must be a whole number >= 0, not '2'"
    """

    def check(value: Any, where: str) -> str | None:
        if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
            return _not(where, "a list" if length is None else f"a list of {length}", value)
        if len(value) > _LONGEST:
            return f"{where} has {len(value):,} entries, and at most {_LONGEST:,} are read"
        return next((f for i, x in enumerate(value) if (f := form(x, _where(where, i))) is not None), None)

    return check


def dict_of(form: Form) -> Form:
    """A dict from strings to what ``form`` says."""

    def check(value: Any, where: str) -> str | None:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            return _not(where, "a dict with strings as keys", value)
        return next((f for key, x in value.items() if (f := form(x, _where(where, key))) is not None), None)

    return check


def record(forms: dict[str, Form], *, more: bool = False, optional: dict[str, Form] | None = None) -> Form:
    """A dict with these keys, and with no others unless ``more`` is on.

    Args:
        more: whether there may be others.
        optional: of keys that older versions did not write.

    >>> record({"step": count, "loss": number})({"step": 1}, "state")
    "state['loss'] is missing"
    >>> record({"step": count}, optional={"loss": number})({"step": 1}, "state") is None
    True
    """
    later = optional or {}

    def check(value: Any, where: str) -> str | None:
        if not isinstance(value, dict):
            return _not(where, "a dict", value)
        for key, form in forms.items():
            if key not in value:
                return f"{_where(where, key)} is missing"
            fault = form(value[key], _where(where, key))
            if fault is not None:
                return fault
        for key, form in later.items():
            fault = form(value[key], _where(where, key)) if key in value else None
            if fault is not None:
                return fault
        unknown = [] if more else [key for key in value if key not in forms and key not in later]
        return f"{_where(where, unknown[0])} is not known" if unknown else None

    return check


def either_empty_or(form: Form) -> Form:
    """An empty dict, or what ``form`` says.

    >>> either_empty_or(count)({}, "state") is None
    True
    """
    return lambda value, where: None if isinstance(value, dict) and not value else form(value, where)
