from __future__ import annotations

import math

import pytest

from lightning_tricks.collapse import causes

BASE = {"skill": 0.0, "cross_entropy": 2.3, "label_entropy": 2.3, "top_share": 0.5, "top_class": 0.0}


@pytest.mark.parametrize(
    ("active", "values", "cause"),
    [
        (["skill"], {"input_dependence": 0.0}, "inputs ignored"),
        (["skill"], {"input_dependence": 0.01}, "labels do not follow from inputs"),
        (["skill"], {"input_dependence": 0.01, "skill": -3.0}, "learning rate too high"),
        (["lost"], {"input_dependence": 0.3, "top_share": 1.0}, "prediction collapse"),
        (["lost", "skill"], {"input_dependence": 0.3, "cross_entropy": 50.0}, "divergence"),
        (["skill"], {"cross_entropy": math.nan}, "non-finite values"),
    ],
)
def test_causes_of_predictions(active: list[str], values: dict[str, float], cause: str) -> None:
    found, reasons, advice = causes.of_prediction(active, {**BASE, **values}, 0.8)
    assert found == cause
    assert reasons
    assert len(advice) == 3


def test_causes_of_the_others() -> None:
    values = {"sphere_variance": 0.01, "mean_cosine": 0.99, "effective_rank": 3.0, "rank_share": 0.05}
    assert causes.of_representation(["sphere_variance", "rank_share"], values, "z")[0] == "complete collapse"
    assert causes.of_representation(["rank_share"], values, "z")[0] == "dimensional collapse"
    assert causes.of_representation(["rank_share"], {**values, "finite": 0.0}, "z")[0] == "non-finite values"
    modes = {"recall": 0.1, "coverage": 0.2, "pairwise_distance_ratio": 0.3}
    assert "cover 10% of real ones" in causes.of_modes(modes, "g")[1][0]
    for kind in ("dead", "saturated", "dormant"):
        assert causes.of_units(kind, "net.1", 0.9)[0] == f"{kind} units"
    drift = {"diversity": 0.5, "real_loss_ratio": 1.4, "repetition": 0.9, "real_repetition": 0.1}
    assert causes.of_drift(["diversity", "repetition"], drift)[0] == "recursive collapse"
    assert "90% of generated n-grams are repeated, 10% of real ones" in causes.of_drift(["repetition"], drift)[1][0]
