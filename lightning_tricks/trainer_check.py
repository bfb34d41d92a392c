"""What in a configuration of a Trainer cannot work: values of a wrong type, and callbacks that contradict something."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import yaml
from lightning.pytorch import Trainer

from lightning_tricks.errors import nearest
from lightning_tricks.gradients.callbacks import GradientClip
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.schedules.callbacks import LRSchedule

_PLAIN = (bool, int, float, str)


def trainer_faults(trainer: Mapping[str, Any]) -> Iterator[str]:
    """Give a line for each argument of the Trainer whose value is of a wrong type or not one of its choices.

    Only arguments whose every allowed form is a plain value are looked at.

    Example:
        >>> list(trainer_faults({"max_epochs": "ten"}))
        ["max_epochs: 'ten' is not a whole number or null."]
        >>> list(trainer_faults({"precision": "16-mixd"}))
        ["precision: '16-mixd' is not a precision of Lightning. Did you mean '16-mixed'?"]
    """
    hints = typing.get_type_hints(Trainer.__init__)
    for name, value in trainer.items():
        forms = set(_forms(hints.get(name, Any)))
        choices = sorted({str(form) for form in forms if isinstance(form, (str, int))})
        if name == "precision":
            if value is not None and str(value) not in choices:
                near = nearest(str(value), choices)
                hint = f"Did you mean {near!r}?" if near else f"There are: {', '.join(choices)}."
                yield f"precision: {value!r} is not a precision of Lightning. {hint}"
        elif forms and forms <= {*_PLAIN, type(None)} and str not in forms and not _fits(value, forms):
            words = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
            allowed = [word for kind, word in words.items() if kind in forms]
            yield f"{name}: {value!r} is not {' or '.join(allowed)}."


def conflicts(callbacks: Sequence[Any], trainer: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Give a line for each callback that contradicts another one, the Trainer or a section of the configuration.

    Example:
        >>> list(conflicts([GradientClip()], {"gradient_clip_val": 0.5}, {}))
        ['gradient_clip_val: 0.5 beside GradientClip(): both clip. Remove one, or use conflict: replace.']
    """
    tricks = [callback for callback in callbacks if isinstance(callback, Trick)]
    for i, trick in enumerate(tricks):
        twin = next((other for other in tricks[:i] if other.state_key == trick.state_key), None)
        if twin is not None:
            apart = f", or tell them apart by {' and '.join(trick.identity)}" if trick.identity else ""
            yield f"callbacks: {twin!r} and {trick!r} do the same work. Remove one{apart}."
        replaces = getattr(trick, "conflict", None) == "replace"
        if isinstance(trick, GradientClip) and trainer.get("gradient_clip_val") and not replaces:
            value = trainer["gradient_clip_val"]
            yield f"gradient_clip_val: {value!r} beside {trick!r}: both clip. Remove one, or use conflict: replace."
        if isinstance(trick, LRSchedule) and config.get("lr_scheduler") and not replaces:
            yield f"callbacks: {trick!r} beside the section lr_scheduler. Remove one, or use conflict: replace."


def _forms(hint: Any) -> Iterator[Any]:
    """Give the members of a union, and the values of a Literal."""
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _forms(part)
    elif get_origin(hint) is typing.Literal:
        yield from get_args(hint)
    else:
        yield hint


def _fits(value: Any, forms: set[Any]) -> bool:
    """Whether LightningCLI takes a value: of one of the types, or a string that YAML reads as one."""
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            return False
    # (a bool is an int for Python, and not for LightningCLI)
    if isinstance(value, bool) or value is None:
        return type(value) in forms
    return type(value) in forms or (isinstance(value, int) and float in forms)
