from __future__ import annotations

from types import SimpleNamespace

from lightning_tricks.numerics.internals import Internal, missing


def test_the_longest_root_counts_and_what_is_none_is_there() -> None:
    found = [Internal(path, "", "") for path in ("a.b.c", "a.b._d", "a._e")]
    roots = {"a": SimpleNamespace(b=SimpleNamespace(c=1, _d=1)), "a.b": SimpleNamespace(c=None)}
    assert [internal.path for internal in missing(found, roots)] == ["a.b._d", "a._e"]
