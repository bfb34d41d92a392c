"""Why predictions have no skill: the causes, and the figures of their reasons."""

from __future__ import annotations

import math

import pytest

from lightning_tricks.collapse.prediction_causes import of_prediction

BASE = {"skill": 0.0, "cross_entropy": 2.3, "label_entropy": 2.3, "top_share": 0.5, "top_class": 0.0, "_spread": 0.1}
NUMBERS = {"squared_error": 1.0, "correlation": 0.0, "_spread": 0.1}
FIRST = {"cross_entropy": 2.4, "squared_error": 1.0, "_spread": 0.01}


@pytest.mark.parametrize(
    ("active", "values", "start", "cause"),
    [
        (["constant"], {"_spread": 0.0}, {"_spread": 0.0}, "inputs ignored"),
        (["constant"], {"_spread": 0.0}, {}, "inputs ignored"),
        (["constant"], {"_spread": 0.0}, FIRST, "prediction collapse"),
        (["constant"], {"_spread": 0.0}, {**FIRST, "highest": 90.0}, "learning rate too high"),
        (["association"], {"association": 0.4}, FIRST, "labels do not follow from inputs"),
        (["association"], {"association": 0.4}, {}, "labels do not follow from inputs"),
        (["association"], {"association": 0.4, "cross_entropy": 9.0}, FIRST, "learning rate too high"),
        (["association"], {"top_share": 1.0}, FIRST, "prediction collapse"),
        (["skill"], {"skill": 0.01}, FIRST, "labels do not follow from inputs"),
        (["worse"], {"skill": -3.0, "cross_entropy": 9.2}, FIRST, "learning rate too high"),
        (["worse"], {"skill": -3.0}, FIRST, "prediction collapse"),
        (["background"], {"balanced_skill": 0.0, "top_share": 1.0}, FIRST, "prediction collapse"),
        (["lost"], {"top_share": 1.0}, FIRST, "prediction collapse"),
        (["lost", "worse"], {"cross_entropy": 50.0}, FIRST, "divergence"),
        (["association"], {"cross_entropy": math.nan}, FIRST, "non-finite values"),
    ],
)
def test_causes_of_predictions(
    active: list[str], values: dict[str, float], start: dict[str, float], cause: str
) -> None:
    found, reasons, advice = of_prediction(active, {**BASE, **values}, 0.8, start)
    assert found == cause
    assert reasons
    assert len(advice) == 3


@pytest.mark.parametrize(
    ("active", "values", "cause"),
    [
        (["association"], {}, "labels do not follow from inputs"),
        (["lost"], {"skill": 0.01}, "prediction collapse"),
        (["lost"], {"skill": 0.01, "squared_error": 30.0, "r_squared": -29.0}, "divergence"),
        (["constant"], {"_spread": 0.0}, "prediction collapse"),
        (["constant"], {"squared_error": math.inf}, "non-finite values"),
    ],
)
def test_causes_of_a_regression(active: list[str], values: dict[str, float], cause: str) -> None:
    found, reasons, advice = of_prediction(active, {**NUMBERS, **values}, 0.8, FIRST)
    assert found == cause
    assert reasons
    assert len(advice) == 3


def test_the_figures_of_a_reason_are_those_that_decided() -> None:
    text = of_prediction(["association"], {**BASE, "association": 0.43}, 0.0, FIRST)[1]
    assert text == ("predictions go with their targets no more than by chance: z = 0.4",)
    text = of_prediction(["worse"], {**BASE, "skill": -3.0, "cross_entropy": 9.2}, 0.0, FIRST)[1]
    assert text[1] == "the cross entropy rose from 2.4 in the first batch to 9.2"
    assert "skill -3" in text[0]


def test_predictions_against_their_targets_are_a_matter_of_the_sign_and_not_of_the_rate() -> None:
    values = {"skill": -1.3, "cross_entropy": 5.3, "label_entropy": 2.3, "association": -37.0}
    start = {"cross_entropy": 2.3, "highest": 5.3}
    cause, reasons, advice = of_prediction(["worse"], values, 0.0, start)
    assert cause == "labels do not follow from inputs"
    assert reasons == ("predictions go against their targets: z = -37.0",) and "a sign that is reversed" in advice[0]
    assert of_prediction(["worse"], {**values, "association": 1.0}, 0.0, start)[0] == "learning rate too high"
