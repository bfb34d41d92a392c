"""The text of the variable LIGHTNING_TRICKS -> callbacks, for training scripts that nobody wants to edit."""

from __future__ import annotations

import ast
from typing import Any

from lightning_tricks.errors import nearest
from lightning_tricks.recipes import KINDS, named, recipe, tricks

_FORM = "Write names, with arguments if need be: GradientMonitor,GradientClip(rule=0.5) or the name of a recipe"


def callbacks_of(text: str) -> tuple[list[Any], list[str]]:
    """Return the callbacks that a string names, and what is wrong with the rest of it.

    Callbacks stand back for one of the same class in the script, and for a run that cannot have them.

    Args:
        text: names of callbacks or recipes with commas between them; arguments in parentheses, as literals.

    Example:
        >>> found, problems = callbacks_of("GradientMonitor, GradientClip(rule=0.5), PrecisionDocter")
        >>> [type(trick).__name__ for trick in found], problems
        (['GradientMonitor', 'GradientClip'], ["there is no 'PrecisionDocter'. Did you mean 'PrecisionDoctor'?"])
    """
    try:
        parsed = ast.parse(f"[{text}]", mode="eval").body
    except (SyntaxError, ValueError):
        return [], [f"{text!r} cannot be read. {_FORM}."]
    found: list[Any] = []
    problems: list[str] = []
    if not isinstance(parsed, ast.List):
        return [], [f"{text!r} cannot be read. {_FORM}."]
    for item in parsed.elts:
        try:
            found += [trick for trick in _one(item) if type(trick) not in map(type, found)]
        except (ValueError, TypeError) as error:
            problems.append(str(error))
    for trick in found:
        trick.gives_way = True
        trick.serial = type(trick).newest = type(trick).newest + 1
    return found, problems


def _one(item: ast.expr) -> list[Any]:
    call = item if isinstance(item, ast.Call) else None
    name = call.func if call is not None else item
    if not isinstance(name, ast.Name) or (
        call is not None and (call.args or any(k.arg is None for k in call.keywords))
    ):
        raise ValueError(f"{ast.unparse(item)!r} cannot be read. {_FORM}.")
    arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if call is not None else {}
    if name.id in KINDS:
        return recipe(name.id, **arguments)
    if name.id not in tricks():
        near = nearest(name.id, [*tricks(), *KINDS])
        raise ValueError(f"there is no {name.id!r}. " + (f"Did you mean {near!r}?" if near else _FORM + "."))
    return [named(name.id)(**arguments)]
