"""``lightning-tricks lr-find`` and ``advise``: a function of the user's makes the model that is measured."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_tricks.errors import nearest
from lightning_tricks.lr_finder.result import Result
from lightning_tricks.precision.advice import PrecisionAdvice, advise_precision
from lightning_tricks.without_trainer import lr_find

_FORM = "Write package.module:name or path/to/file.py:name"


def made(target: str) -> Any:
    """Import what ``package.module:name`` or ``file.py:name`` says, from the current folder too, and call it.

    Args:
        target: name of a function or class that needs no arguments.

    Raises:
        ValueError: there is no such module or name; the message has the nearest.
    """
    place, _, name = target.partition(":")
    if not place or not name:
        raise ValueError(f"{target}: there is no name behind a colon. {_FORM}.")
    module = _imported(place)
    if not hasattr(module, name):
        near = nearest(name, [n for n in vars(module) if not n.startswith("_")])
        raise ValueError(f"{target}: {place} has no {name!r}. " + (f"Did you mean {near!r}?" if near else f"{_FORM}."))
    make = getattr(module, name)
    if not callable(make):
        raise ValueError(f"{target}: {name} is a {type(make).__name__}, not a function or a class. {_FORM}.")
    return make()


def find_rate(target: str, arguments: dict[str, Any]) -> Result:
    """Return what a range test says about the model of ``target``.

    Args:
        target: of a function that returns a LightningModule, or ``(module, train_loader)``.
        arguments: of ``LRFinder``.
    """
    found = made(target)
    module, loader = _pair(found) if isinstance(found, (tuple, list)) else (found, None)
    return lr_find(module, loader, **arguments)


def advise(target: str, seconds: float) -> PrecisionAdvice:
    """Return which precision pays for the model of ``target``.

    Args:
        target: of a function that returns ``(module, batch)``.

    Raises:
        ValueError, TypeError: as ``made`` and ``advise_precision``, or it does not return a pair.
    """
    found = made(target)
    if not isinstance(found, (tuple, list)):
        raise ValueError(f"{target} must return (module, batch), not a {type(found).__name__}.")
    module, batch = _pair(found)
    return advise_precision(module, batch, seconds=seconds)


def _pair(found: Sequence[Any]) -> tuple[Any, Any]:
    if len(found) != 2:
        raise ValueError(f"the function must return two things, a module and its data, not {len(found)}.")
    return found[0], found[1]


def _imported(place: str) -> Any:
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise ValueError(f"{place}: there is no such file. {_FORM}.")
        specification = importlib.util.spec_from_file_location(path.stem, path)
        if specification is None or specification.loader is None:
            raise ValueError(f"{place}: it cannot be imported. {_FORM}.")
        module = importlib.util.module_from_spec(specification)
        sys.modules[path.stem] = module  # (a DataLoader's processes look its classes up there)
        # (as ``python file.py`` does: the file may import its neighbours)
        sys.path.insert(0, str(path.resolve().parent))
        specification.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ValueError(f"{place}: {error}. {_FORM}.") from None
