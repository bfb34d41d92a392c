"""Check a LightningCLI config without running it: misspelt keys, unknown callbacks, arguments out of range.

Nothing that the file names is imported: only public classes of ``lightning_tricks`` are made, from plain values.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

import lightning_tricks
from lightning_tricks import decays, metrics
from lightning_tricks.errors import nearest
from lightning_tricks.lifecycle.namespaces import trainer_arguments
from lightning_tricks.trainer_check import conflicts, trainer_faults

_SUBCOMMANDS = ("fit", "validate", "test", "predict")
_SECTIONS = ("seed_everything", "trainer", "model", "data", "optimizer", "lr_scheduler", "ckpt_path", "weights_only")
_ENTRIES = ("class_path", "init_args", "dict_kwargs")
_LARGEST = 1_000_000  # bytes: YAML takes seconds for each megabyte
_FOREIGN = object()  # stands for what is not ours, or is wrong


@dataclass
class Findings:
    """What a check found.

    Args:
        problems: one line each: where, what is wrong, the nearest right name.
        unchecked: class paths that are not of this package.
        checked: how many entries of this package were looked at.
    """

    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    checked: int = 0


def check_file(path: Path) -> Findings:
    """Check a YAML file.

    Raises:
        ValueError: there is no such file, or it does not hold a YAML mapping.
    """
    if not path.is_file():
        raise ValueError("no such file. Pass the path of a YAML config.")
    if path.suffix == ".py":
        raise ValueError("a Python file. Pass a YAML config; lightning-tricks doctor runs a script.")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"larger than {_LARGEST} bytes. Pass the config, not data.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"invalid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise ValueError("no mapping of keys to values. A config of LightningCLI begins with e.g. trainer:")
    return check(content)


def check(content: Mapping[str, Any]) -> Findings:
    """Check the content of a config.

    Example:
        >>> callbacks = [{"class_path": "lightning_tricks.GradientClip", "init_args": {"rul": 1.0}}]
        >>> check({"trainer": {"callbacks": callbacks}}).problems[0]
        "trainer.callbacks[0].init_args.rul: GradientClip has no argument 'rul'. Did you mean 'rule'?"
    """
    findings = Findings()
    nested = [name for name in _SUBCOMMANDS if isinstance(content.get(name), Mapping)]
    sections = [*_SECTIONS, *_SUBCOMMANDS]
    like = {
        k: v for k, v in content.items() if get_close_matches(str(k), sections, 1, 0.75)
    }  # a CLI may have keys of its own
    _names(findings, "", like, sections, "the config")
    for name in nested:
        _names(findings, f"{name}.", content[name], _SECTIONS, f"the subcommand {name}")
    for prefix, part in [("", dict(content)), *((f"{name}.", content[name]) for name in nested)]:
        trainer = part.get("trainer")
        if isinstance(trainer, Mapping):
            _names(findings, f"{prefix}trainer.", trainer, trainer_arguments(), "Trainer")
            findings.problems += [f"{prefix}trainer.{fault}" for fault in trainer_faults(trainer)]
            found = _callbacks(findings, f"{prefix}trainer.callbacks", trainer.get("callbacks"))
            findings.problems += [f"{prefix}trainer.{fault}" for fault in conflicts(found, trainer, part)]
    for where, entry in _entries(content, ""):
        # (callbacks were checked above, where it is known that they are callbacks)
        if ".callbacks" not in f".{where}":
            _entry(findings, where, entry, callback=False)
    findings.unchecked = sorted(set(findings.unchecked))
    return findings


def _ours(path: str) -> type | None:
    """Return the public class that a class path means, without an import: by its short name or one of its full ones."""
    for name, cls in public_classes().items():
        # the module of a class, and every package above it that re-exports it
        modules = [cls.__module__, *_packages_above(cls.__module__), *(place.__name__ for place in (decays, metrics))]
        if path == name or path in [f"{module}.{name}" for module in modules]:
            return cls
    return None


def _packages_above(module: str) -> list[str]:
    """Return the packages that hold a module.

    >>> _packages_above("lightning_tricks.gradients.callbacks.gradient_clip")
    ['lightning_tricks.gradients.callbacks', 'lightning_tricks.gradients', 'lightning_tricks']
    """
    parts = module.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]


def _names(findings: Findings, where: str, given: Mapping[str, Any], known: Any, owner: str) -> None:
    for key in given:
        if str(key) not in known:
            near = nearest(str(key), known)
            hint = f" Did you mean {near!r}?" if near else ""
            findings.problems.append(f"{where}{key}: {owner} has no argument {str(key)!r}.{hint}")


def _callbacks(findings: Findings, where: str, given: Any) -> list[Any]:
    """Check the list of callbacks; return those of this package that could be made."""
    found = []
    rows = given if isinstance(given, list) else [] if given is None else [given]
    for i, row in enumerate(rows):
        place = f"{where}[{i}]" if isinstance(given, list) else where
        # (jsonargparse takes a class path alone for one without arguments)
        if isinstance(row, str):
            row = {"class_path": row}
        if isinstance(row, Mapping) and "class_path" in row:
            found.append(_entry(findings, place, row, callback=True))
        else:
            findings.problems.append(f"{place}: a callback is written as class_path: ... and init_args: ...")
    return [callback for callback in found if callback is not _FOREIGN]


def _entries(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give every mapping with a class_path, outermost first, not those inside of another."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield where, value
            return
        for key, inner in value.items():
            yield from _entries(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _entries(inner, f"{where}[{i}]")


def _entry(findings: Findings, where: str, entry: Mapping[str, Any], *, callback: bool) -> Any:
    """Check one class_path with its init_args; return the object, or a mark for what is not ours or wrong."""
    path = str(entry["class_path"])
    cls = _ours(path)
    if cls is None:
        # (a short name may be one of Lightning's own callbacks: only one that is near to ours is a mistake)
        if path.split(".")[0] == "lightning_tricks" or (callback and "." not in path):
            near = nearest(path.rsplit(".", 1)[-1], public_classes())
            hint = f" Did you mean 'lightning_tricks.{near}'?" if near else ""
            if path.split(".")[0] == "lightning_tricks" or near:
                findings.problems.append(f"{where}.class_path: lightning_tricks has no class {path!r}.{hint}")
                return _FOREIGN
        findings.unchecked.append(path)
        return _FOREIGN
    before = len(findings.problems)
    findings.checked += 1
    _names(findings, f"{where}.", entry, _ENTRIES, "a class_path entry")
    # (``init_args:`` without anything below is None in YAML)
    given = entry.get("init_args") or {}
    if not isinstance(given, Mapping):
        findings.problems.append(f"{where}.init_args: {given!r} is not a mapping of arguments to values.")
        return _FOREIGN
    parameters = inspect.signature(cls).parameters
    _names(findings, f"{where}.init_args.", given, list(parameters), cls.__name__)
    values = {str(k): _value(findings, f"{where}.init_args.{k}", v, parameters) for k, v in given.items()}
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in values]
    for name in missing:
        findings.problems.append(f"{where}.init_args: {cls.__name__} needs {name}.")
    # (without an argument that is not ours the constructor would complain of what is not wrong)
    foreign = any(v is _FOREIGN for v in values.values())
    if len(findings.problems) > before or foreign:
        return _FOREIGN
    try:
        # (made for the checks of its constructor, which only keeps what it is given)
        return cls(**values)
    except (TypeError, ValueError) as error:
        findings.problems.append(f"{where}: {error}")
        return _FOREIGN


def _value(findings: Findings, where: str, value: Any, parameters: Mapping[str, inspect.Parameter]) -> Any:
    """Return what LightningCLI would pass: objects for class paths, tuples where tuples are asked for."""
    if isinstance(value, Mapping) and "class_path" in value:
        return _entry(findings, where, value, callback=False)
    name = where.rsplit(".", 1)[-1]
    hint = str(parameters[name].annotation) if name in parameters else ""
    # (YAML has no tuples)
    if isinstance(value, list) and "tuple[" in hint:
        return tuple(value)
    if isinstance(value, str) and "." in value and ("Callable" in hint or "Action" in hint):
        findings.unchecked.append(value)  # the path of a function: jsonargparse would import it
        return _FOREIGN
    if isinstance(value, str) and "float" in hint and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)  # LightningCLI reads 1e-3 as a number, plain YAML as a string
    if isinstance(value, str) and value[:1].isupper() and _ours(value) is not None:
        return _entry(findings, where, {"class_path": value}, callback=False)
    return value


def public_classes() -> dict[str, type]:
    """Return the public classes of the package, its decays and its metrics by name."""
    places = (lightning_tricks, decays, metrics)
    found = {name: getattr(place, name) for place in places for name in place.__all__}
    return {name: value for name, value in found.items() if inspect.isclass(value)}
