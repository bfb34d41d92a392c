"""The namespace of the metrics."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from torchmetrics import Metric

import lightning_tricks as lt
from lightning_tricks import collapse, metrics


def test_all_public_metrics_are_there_and_nothing_else() -> None:
    found = {
        name
        for place in pkgutil.iter_modules(collapse.__path__, "lightning_tricks.collapse.")
        if place.name.endswith("_metrics")
        for name, value in vars(importlib.import_module(place.name)).items()
        if inspect.isclass(value) and issubclass(value, Metric) and not name.startswith("_")
        if value.__module__ == place.name
    }
    assert metrics.__all__ == sorted(found)


def test_a_generic_name_is_a_deprecated_alias_outside_of_all() -> None:
    moved = {"Alignment", "Coverage", "Density", "Precision", "Recall", "Uniformity"}
    assert set(metrics.__all__) - set(lt.__all__) == moved and not moved & set(dir(lt))
    for name in moved:
        with pytest.warns(
            DeprecationWarning, match=rf"^lightning_tricks\.{name} is lightning_tricks\.metrics\.{name} now"
        ):
            assert getattr(lt, name) is getattr(metrics, name)


def test_the_modules_that_hold_more_names_are_there_after_the_import() -> None:
    assert {"functional", "metrics", "decays"} <= set(dir(lt))
    assert lt.functional.valley and lt.metrics.Recall and lt.decays.Step


def test_a_name_that_never_was_there_is_none_of_them() -> None:
    with pytest.raises(AttributeError, match="module 'lightning_tricks' has no attribute 'Nonsense'"):
        lt.Nonsense  # noqa: B018


@pytest.mark.parametrize(("wrong", "right"), [("LrFinder", "LRFinder"), ("GradientClipping", "GradientClip")])
def test_a_misspelt_name_is_told_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{wrong}'. Did you mean '{right}'"):
        getattr(lt, wrong)


def test_a_name_that_is_like_none_gets_no_suggestion() -> None:
    with pytest.raises(AttributeError, match="no attribute 'EarlyStop'$"):
        lt.EarlyStop  # noqa: B018
