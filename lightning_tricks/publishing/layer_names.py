"""Names of layers in a picture, where long ones have no room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile


def short(name: str, longest: int) -> str:
    """Return a name without its middle where it is longer than so many characters.

    >>> short("encoder.blocks.11.attention.output", 20)
    'encoder.b…ion.output'
    """
    head = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:head]}…{name[len(name) - longest + 1 + head :]}"


def shorter(names: Iterable[str], longest: int) -> dict[str, str]:
    """Return how each name is written: where some are too long, without most of what all have in common.

    Args:
        names: with dots between their parts.
        longest: how many characters there is room for.

    Example:
        >>> list(shorter(["model.encoder.blocks.0.attention", "model.encoder.blocks.11.attention"], 24).values())
        ['…blocks.0…', '…blocks.11…']
    """
    parts = {name: name.split(".") for name in names}
    if len(parts) < 2 or max(map(len, parts)) <= longest:
        return {name: short(name, longest) for name in parts}
    # (a name that begins another keeps its own last part)
    first = min(_alike([*parts.values()]), min(map(len, parts.values())) - 1)
    last = _alike([part[:first:-1] for part in parts.values()])
    start = max(0, first - 1)  # one part that is common says what is counted
    before, after = "…" * (start > 0), "…" * (last > 0)
    return {
        name: short(f"{before}{'.'.join(part[start : len(part) - last])}{after}", longest)
        for name, part in parts.items()
    }


def _alike(rows: Sequence[Sequence[str]]) -> int:
    """Return how many entries at the beginning of the rows are the same in all of them."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
