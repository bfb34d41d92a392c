"""Parameter names -> groups. No match is an error that shows the nearest name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from lightning_tricks.errors import TrickError, message, nearest

LONGEST_PATTERN = 1000

# added by torch.compile, by Fabric's wrapper of a module, and by FSDP1
_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_forward_module|_fsdp_wrapped_module)(?=\.|$)")


def plain_name(name: str) -> str:
    """Return a parameter's or module's name without the parts that ``torch.compile`` and wrappers add.

    >>> plain_name("_orig_mod.encoder._orig_mod.weight")
    'encoder.weight'
    """
    return _WRAPPERS.sub(r"\1", name).replace("..", ".").strip(".")


def parameter_names(module: torch.nn.Module) -> dict[int, str]:
    """Return ``{id(parameter): plain name}``; of a shared parameter the first name."""
    return {id(p): plain_name(n) for n, p in module.named_parameters()}


def fault_of(pattern: str) -> str | None:
    """Return what is wrong with a user's regular expression, as the rest of a sentence; None when nothing is.

    >>> fault_of("^head"), fault_of("(")
    (None, 'is not a regular expression (missing ), unterminated subpattern at position 0)')
    """
    if len(pattern) > LONGEST_PATTERN:  # to compile an endless pattern takes time and memory without end
        return f"has {len(pattern):,} characters, and at most {LONGEST_PATTERN:,} are allowed"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression ({error})"
    return None


def check_patterns(owner: str, groups: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return a copy of ``groups`` after checking that it maps names to regular expressions.

    Raises:
        TypeError: it is not a dict of str to str.
        ValueError: it is empty, a pattern does not compile, or a name has an empty text.
    """
    if groups is None:
        return None
    remedy = "Use e.g. {'head': r'^head\\.'}: a name and a pattern on parameter names"
    if not isinstance(groups, Mapping) or not all(isinstance(x, str) for kv in groups.items() for x in kv):
        raise TypeError(message(owner, "groups", groups, "groups must be a dict of str to str", remedy))
    if not groups or not all(groups):
        raise ValueError(message(owner, "groups", dict(groups), "groups must name at least one group", remedy))
    for name, pattern in groups.items():
        fault = fault_of(pattern)
        if fault is not None:
            raise ValueError(message(owner, "groups", dict(groups), f"the pattern of {name!r} {fault}", remedy))
    return dict(groups)


def matching(names: Sequence[str], pattern: str, *, owner: str, argument: str) -> list[int]:
    """Return the positions of the names in which ``pattern`` is found.

    Raises:
        TrickError: it is found in none; the message shows the nearest name.
    """
    search = re.compile(pattern).search
    found = [i for i, name in enumerate(names) if search(name)]
    if not found:
        near = nearest(re.sub(r"[\\^$]", "", pattern), names) or (names[0] if names else None)
        remedy = f"The nearest name is {near!r}" if near else "The optimizer has no parameters"
        raise TrickError(message(owner, argument, pattern, "the pattern matches no parameter", remedy))
    return found


def assign(names: Sequence[str], groups: Mapping[str, str], *, owner: str, strict: bool = True) -> list[int]:
    """Return for each name the position of its group in ``groups``, or -1 for none.

    Raises:
        TrickError: a pattern matches nothing (unless ``strict`` is off), or two groups share a parameter.
    """
    group_of = [-1] * len(names)
    titles = list(groups)
    for j, (title, pattern) in enumerate(groups.items()):
        if not strict and not any(re.search(pattern, name) for name in names):
            continue
        for i in matching(names, pattern, owner=owner, argument=f"groups[{title!r}]"):
            if group_of[i] >= 0:
                both = f"{names[i]!r} is in {titles[group_of[i]]!r} and in {title!r}"
                text = f"groups overlap: {both}"
                raise TrickError(message(owner, "groups", dict(groups), text, "Make the patterns exclude each other"))
            group_of[i] = j
    return group_of
