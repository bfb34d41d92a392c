"""Names of layers in a picture, where long ones have no room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

_SHORTEST = 13  # characters of a slash and a layer, beside what is measured there


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
        names: of layers, with dots between their parts; what is measured there may stand before a slash.
        longest: how many characters there is room for.

    Example:
        >>> list(shorter(["model.encoder.blocks.0.attention", "model.encoder.blocks.11.attention"], 24).values())
        ['…blocks.0…', '…blocks.11…']
        >>> list(shorter(["rank/encoder.blocks.0.attention", "variance/encoder.blocks.1.attention"], 24).values())
        ['rank/…blocks.0…', 'variance/…blocks.1…']
    """
    split = {name: name.rpartition("/") for name in names}
    if not split or max(map(len, split)) <= longest:
        return {name: name for name in split}
    kinds = {kind: short(kind, longest - _SHORTEST) + slash for kind, slash, _ in split.values()}
    room = longest - max(map(len, kinds.values()))
    called = _without_what_is_common({layer for _, _, layer in split.values()}, room)
    return {name: f"{kinds[kind]}{called[layer]}" for name, (kind, _, layer) in split.items()}


def _without_what_is_common(layers: set[str], longest: int) -> dict[str, str]:
    parts = {layer: layer.split(".") for layer in layers}
    if len(parts) < 2:
        return {layer: short(layer, longest) for layer in parts}
    # (a name that begins another keeps its own last part)
    first = min(_alike([*parts.values()]), min(map(len, parts.values())) - 1)
    last = _alike([part[:first:-1] for part in parts.values()])
    start = max(0, first - 1)  # one part that is common says what is counted
    before, after = "…" * (start > 0), "…" * (last > 0)
    return {
        layer: short(f"{before}{'.'.join(part[start : len(part) - last])}{after}", longest)
        for layer, part in parts.items()
    }


def _alike(rows: Sequence[Sequence[str]]) -> int:
    """Return how many entries at the beginning of the rows are the same in all of them."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
