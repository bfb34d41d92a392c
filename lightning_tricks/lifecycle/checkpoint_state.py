"""The state of a callback in a checkpoint: the form around what it saves itself, and the checks on loading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lightning_tricks.errors import shown
from lightning_tricks.numerics import form
from lightning_tricks.numerics.arguments import changed_arguments

VERSION = 1
ADVICE = "Remove this callback's state from the checkpoint, or start from scratch."
_CLOCK = form.record(
    {"version": form.count, "attempted": form.list_of(form.count), "applied": form.list_of(form.count)}
)


class CheckedState(NamedTuple):
    """A checkpoint's state that has the right form.

    Args:
        state: what the callback saved.
        clock: attempted and applied updates of each optimizer.
        changed: the arguments that differ, as ``name: old -> new``.
    """

    state: dict[str, Any]
    clock: dict[str, Any]
    changed: list[str]


def saved_state(configuration: dict[str, Any], clock: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint holds of a callback."""
    return {"version": VERSION, "configuration": configuration, "clock": clock, "state": state}


def checked_state(callback: object, saved: object, state_form: form.Form) -> CheckedState:
    """Return a checkpoint's state, checked before anything of it is used.

    Args:
        callback: keeps each of its arguments in an attribute of the same name.
        saved: what ``saved_state`` returned, or whatever the checkpoint holds instead.
        state_form: of what the callback itself saves.

    Raises:
        ValueError: the state is of an unknown version or not of this form.
    """
    owner = type(callback).__name__
    if not isinstance(saved, Mapping):
        raise ValueError(f"{owner}: the checkpoint's state must be a dict, not {shown(saved)}. {ADVICE}")
    state, clock, version = saved.get("state"), saved.get("clock"), saved.get("version")
    known = type(version) is int and version == VERSION
    if not known or not isinstance(state, dict) or not isinstance(clock, Mapping):
        raise ValueError(
            f"{owner}: the checkpoint's state (version {shown(version)}) cannot be read "
            f"by this version, which reads version {VERSION}. Update lightning-tricks, or train without it."
        )
    old = saved.get("configuration", {})
    fault = form.dict_of(form.plain)(old, "configuration") or _CLOCK(dict(clock), "clock")
    if fault is None and len(clock["attempted"]) != len(clock["applied"]):
        fault = "clock must count attempts and updates of the same optimizers"
    fault = fault or state_form(state, "state")
    if fault is not None:
        raise ValueError(f"{owner}: the checkpoint's {fault}. {ADVICE}")
    changed = [f"{k}: {shown(before)} -> {shown(now)}" for k, (before, now) in changed_arguments(callback, old).items()]
    return CheckedState(dict(state), dict(clock), changed)


def find_older_key(states: Iterable[Any], key: str) -> str | None:
    """Return the key under which an older implicit callback of the same arguments saved its state; None without one.

    Args:
        states: the keys of all callbacks in the checkpoint.
        key: the present one; keys end in the arguments, as a dict is shown.

    >>> find_older_key(["A{'gives_way': True, 'serial': 1}"], "A{'gives_way': True}")
    "A{'gives_way': True, 'serial': 1}"
    """
    states = list(states)
    # Lightning's state key is the class's name and the identity arguments, printed as a dict; ``serial`` is its last
    # entry.
    stem = key.removesuffix("}")
    found = [k for k in states if isinstance(k, str) and k.startswith(f"{stem}, 'serial'")]
    return found[-1] if found and key not in states else None
