"""The namespace of the decays."""

from __future__ import annotations

import inspect

import pytest

import lightning_tricks as lt
from lightning_tricks import decays
from lightning_tricks.schedules.curves import Decay
from lightning_tricks.schedules.phases import DECAYS


def test_every_decay_that_has_a_name_is_there_with_what_joins_them() -> None:
    assert decays.__all__ == sorted(decays.__all__)
    assert {type(decay).__name__ for decay in DECAYS.values()} | {"Decay", "Function", "Join", "Phase"} == set(
        decays.__all__
    )
    assert all(issubclass(getattr(decays, name), Decay) for name in decays.__all__ if name != "Phase")


def test_a_generic_name_is_a_deprecated_alias_outside_of_all() -> None:
    moved = set(decays.__all__) - set(lt.__all__)
    assert moved == {
        "Constant", "Cosine", "Exponential", "Function", "Join", "Linear", "Phase", "Piecewise", "Polynomial", "Step",
    }  # fmt: skip
    for name in moved:
        with pytest.warns(
            DeprecationWarning, match=rf"^lightning_tricks\.{name} is lightning_tricks\.decays\.{name} now"
        ):
            assert inspect.isclass(getattr(lt, name))
