"""What the command prints about names: the list of all, and the page of one, from docstrings and declared log keys."""

from __future__ import annotations

import inspect
import re

from torchmetrics import Metric

import lightning_tricks
from lightning_tricks import decays, metrics
from lightning_tricks.errors import nearest
from lightning_tricks.gradients.rules import ClipRule
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.recipes import KINDS
from lightning_tricks.report.all_keys import ALL_KEYS
from lightning_tricks.schedules.curves import Decay


def listing() -> str:
    """Return every public name with its first sentence, by kind."""
    kinds: dict[str, list[str]] = {name: [] for name in ("callbacks", "clip rules", "decays", "metrics", "others")}
    for name, value in _public().items():
        kinds[_kind(value)].append(f"  {name:<22} {_first_line(value)}")
    lines = [line for kind, rows in kinds.items() for line in (kind, *rows, "")]
    recipes = [f"  {name:<22} {_first_line(make)}" for name, make in KINDS.items()]
    return "\n".join([*lines, "recipes", *recipes, "", "lightning-tricks explain NAME says more."])


def explanation(name: str) -> str:
    """Return what is known of a name: a public one, with its arguments, a recipe, or a key of the logs.

    Args:
        name: as in ``listing()``, with or without ``lightning_tricks.``, or such as ``grad/norm``.

    Raises:
        ValueError: nothing has that name; the nearest one is named.
    """
    name = name.strip().removeprefix("lightning_tricks.").removeprefix("lt.")
    public = _public()
    if name in public:
        return f"{name}{_signature(public[name])}\n\n{inspect.getdoc(public[name])}"
    if name in KINDS:
        from lightning_tricks.recipes import recipe

        return f"{recipe(name)}\n\n{inspect.getdoc(KINDS[name])}"
    key = ALL_KEYS.of(name) if "/" in name else None
    if key is not None:
        logged = ", ".join(n for n, v in public.items() if inspect.isclass(v) and key in getattr(v, "log_keys", ()))
        return f"{name}\n\n{key.meaning}" + (f"\n\nLogged by {logged}." if logged else "")
    known = [*public, *KINDS, *(k.name for k in ALL_KEYS.keys if "<" not in k.name)]
    near = nearest(name, known) or nearest(name.lower(), known)
    raise ValueError(
        f"explain {name}: there is no such name. "
        + (f"Did you mean {near!r}?" if near else "lightning-tricks list shows all.")
    )


def _public() -> dict[str, object]:
    """Return all public names: those of the package, its decays and its metrics."""
    places = (lightning_tricks, decays, metrics)
    found = {name: getattr(place, name) for place in places for name in place.__all__}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


def _kind(value: object) -> str:
    if inspect.isclass(value):
        for kind, base in (("callbacks", Trick), ("clip rules", ClipRule), ("decays", Decay), ("metrics", Metric)):
            if issubclass(value, base):
                return kind
    return "others"


def _first_line(value: object) -> str:
    text = (inspect.getdoc(value) or "").split("\n\n")[0].split("\n")[0]
    return re.sub(r"``", "", text)


def _signature(value: object) -> str:
    """Return the arguments of a class or function, as a call shows them; types are in the docstring."""
    if not callable(value) or (isinstance(value, type) and issubclass(value, (Exception, Warning))):
        return ""
    parts = []
    for name, parameter in inspect.signature(value).parameters.items():
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        kinds = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        stars = "".join(star for kind, star in kinds.items() if kind == parameter.kind)
        parts.append(f"{stars}{name}{default}")
    return f"({', '.join(parts)})"
