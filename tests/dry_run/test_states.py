from __future__ import annotations

import numpy

from lightning_tricks.dry_run.states import equal_states


def test_states_compare_by_value() -> None:
    assert equal_states({"a": numpy.ones(2), "b": (1, [2])}, {"a": numpy.ones(2), "b": (1, [2])})
    assert not equal_states({"a": numpy.ones(2)}, {"a": numpy.ones(3)})
