"""The text of the variable LIGHTNING_TRICKS -> callbacks, for training scripts that nobody wants to edit."""

from __future__ import annotations

import ast
from typing import Any

from lightning_tricks.detection.action import Rollback
from lightning_tricks.errors import nearest
from lightning_tricks.gradients.rules import ClipRule
from lightning_tricks.recipe_choices import named, tricks
from lightning_tricks.recipes import KINDS, recipe
from lightning_tricks.schedules.phases import DECAYS

_FORM = "Write names, with arguments if need be: GradientMonitor,GradientClip(0.5) or the name of a recipe"


def callbacks_of(text: str) -> tuple[list[Any], list[str]]:
    """Return the callbacks that a string names, and what is wrong with the rest of it.

    A callback yields to one of the same class in the script, and stays out of a run that cannot have it.

    Args:
        text: names of callbacks or recipes with commas between them; arguments in parentheses:
            literals, clip rules and decays.

    Example:
        >>> found, problems = callbacks_of("GradientMonitor, GradientClip(rule=0.5), PrecisionDocter")
        >>> [type(trick).__name__ for trick in found], problems
        (['GradientMonitor', 'GradientClip'], ["there is no 'PrecisionDocter'. Did you mean 'PrecisionDoctor'?"])
    """
    try:
        # Parsed and never evaluated: a variable of the environment must not be able to run code.
        parsed = ast.parse(f"[{text}]", mode="eval").body
    except (SyntaxError, ValueError):
        return [], [f"{text!r} cannot be read. {_FORM}."]
    found: list[Any] = []
    problems: list[str] = []
    if not isinstance(parsed, ast.List):
        # (a string such as ``] + [`` closes the brackets itself)
        return [], [f"{text!r} cannot be read. {_FORM}."]
    for item in parsed.elts:
        try:
            found += [trick for trick in _one(item) if type(trick) not in map(type, found)]
        except (ValueError, TypeError) as error:
            problems.append(str(error))
    for trick in found:
        trick.implicit = True
        # Lightning adds these callbacks to the list that the user passed, so that a second Trainer finds those of the
        # first one there. The serial number tells them apart: see ``Trick.state_key``.
        trick.serial = type(trick).newest = type(trick).newest + 1
    return found, problems


def _one(item: ast.expr) -> list[Any]:
    """Return the callbacks of one entry: a name, or a call with arguments, of a callback or of a recipe."""
    name = item.func if isinstance(item, ast.Call) else item
    if not isinstance(name, ast.Name):
        raise ValueError(f"{ast.unparse(item)!r} cannot be read. {_FORM}.")
    values, named_values = _arguments(item) if isinstance(item, ast.Call) else ([], {})
    if name.id in KINDS:
        return recipe(name.id, *values, **named_values)
    if name.id not in tricks():
        near = nearest(name.id, [*tricks(), *KINDS])
        raise ValueError(f"there is no {name.id!r}. " + (f"Did you mean {near!r}?" if near else _FORM + "."))
    return [named(name.id)(*values, **named_values)]


def _arguments(call: ast.Call) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call, by position and by name."""
    # (``**`` and ``*`` would have to be evaluated)
    if any(keyword.arg is None for keyword in call.keywords) or any(isinstance(a, ast.Starred) for a in call.args):
        raise ValueError(f"{ast.unparse(call)!r} cannot be read. {_FORM}.")
    return [_value(a) for a in call.args], {str(k.arg): _value(k.value) for k in call.keywords}


def _value(node: ast.expr) -> Any:
    """Return a literal, or a clip rule, decay or action of this package: nothing else is ever called."""
    if not isinstance(node, ast.Call):
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"{ast.unparse(node)!r} cannot be read. {_FORM}.") from None
    # (all of them only keep their arguments: to call one runs no code of the environment)
    known = {cls.__name__: cls for cls in (*ClipRule.__subclasses__(), *map(type, DECAYS.values()), Rollback)}
    if not isinstance(node.func, ast.Name) or node.func.id not in known:
        name = ast.unparse(node.func)
        near = nearest(name, known)
        raise ValueError(f"there is no {name!r}. " + (f"Did you mean {near!r}?" if near else _FORM + "."))
    values, named_values = _arguments(node)
    return known[node.func.id](*values, **named_values)
