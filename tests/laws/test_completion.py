"""What ``dir`` shows of a callback, and so what completion offers."""

from __future__ import annotations

import inspect

import lightning.pytorch as L
import pytest

from tests.laws.strategies import CALLBACKS, example

INTERNAL = {
    *("call_stage", "guard", "guarded", "live_run", "run", "run_or_none", "parts", "part", "does", "facts", "survives"),
    *("watch", "settings", "take", "observer", "serial", "implicit", "newest", "state_form", "log_keys"),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_completion_shows_arguments_and_results_and_nothing_of_the_pack(name: str) -> None:
    made = example(name)
    kind = type(made)
    shown = {n for n in dir(made) if not n.startswith("_")}
    arguments = {n for n in inspect.signature(kind.__init__).parameters if hasattr(made, n)}
    assert arguments <= shown and not shown & INTERNAL
    assert {n for n in dir(L.Callback) if not n.startswith("_")} <= shown
    results = shown - arguments - set(dir(L.Callback))
    unexplained = [
        n for n in results if not (isinstance(getattr(kind, n, None), property) or callable(getattr(kind, n, None)))
    ]
    assert set(unexplained) <= set(vars(made)), "what is no argument is a documented property, or a method"
