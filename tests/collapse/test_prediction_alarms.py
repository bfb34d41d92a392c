from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_tricks.collapse.prediction_alarms import alarms, association, grace_factor, statistics, worth
from lightning_tricks.collapse.prediction_values import Targets

MANY = 2048.0


def values(**more: float) -> dict[str, float]:
    """Values of classes that go well, on samples that are new."""
    good = {"cross_entropy": 1.0, "skill": 0.5, "_spread": 0.4, "_score": 5.0, "association": 5.0, "seen_before": 0.0}
    good["_lately"] = 5.0
    return {**good, "balanced_skill": 0.4, "soft_balanced_skill": 0.3, **more}


def below(found: dict[str, float]) -> set[str]:
    """Return the alarms whose limit a statistic is below at a first check."""
    rules = alarms(1)
    return {name for name, value in found.items() if value < rules[name].limit(rules[name].init())}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, set()),
        ({"_spread": 0.0}, {"constant"}),
        ({"skill": -0.5, "_score": 0.0, "association": 0.0}, {"worse", "association"}),
        ({"skill": -0.1, "_score": 0.0, "association": 0.0}, {"association"}),
        ({"skill": -0.5, "moved_skill": 0.2}, set()),
        ({"skill": -0.5, "moved_skill": 0.2, "_score": 0.0, "association": 0.0}, {"worse", "association"}),
        ({"skill": 0.01, "seen_before": 1.0, "association": 0.0}, {"skill"}),
        ({"skill": 0.01, "seen_before": 1.0}, set()),
        ({"skill": 0.01, "seen_before": 1.0, "_lately": 0.5}, {"skill"}),
    ],
    ids=[
        *("good", "constant", "garbage", "random", "weights of classes", "weights of nothing", "by heart", "weak"),
        "a signal that was there in the first epoch only",
    ],
)
def test_each_failure_is_below_the_limit_of_its_alarm(given: dict[str, float], wanted: set[str]) -> None:
    assert below(statistics(values(**given), Targets(), MANY)) == wanted


def test_few_labels_of_rare_classes_say_little_about_how_bad_predictions_are() -> None:
    rare = {"skill": -0.5, "moved_skill": -0.5}
    assert "worse" not in below(statistics(values(**rare, _minority=6.0), Targets(), MANY))
    assert "worse" in below(statistics(values(**rare, _minority=100.0), Targets(), MANY))
    assert "worse" in below(statistics(values(skill=-3.0, moved_skill=-3.0, _minority=6.0), Targets(), MANY))


def test_a_loss_on_its_way_down_to_the_entropy_of_very_rare_labels_is_not_worse_than_a_constant() -> None:
    """Of 500 labels two are of another class: their entropy is 0.026, and a loss of 0.1 is four times as much."""

    def worse(loss: float, minority: float) -> bool:
        share = minority / 500
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        skill = 1 - loss / entropy
        found = values(skill=skill, moved_skill=skill, cross_entropy=loss, _minority=minority)
        return "worse" in below(statistics(found, Targets(), MANY))

    assert not worse(0.1, 2.0)
    assert worse(0.9, 2.0), "no network that was just made has a loss like this"
    assert worse(0.9, 50.0)
    assert worse(0.6, 50.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_worse_than_any_limit(loss: float) -> None:
    found = statistics(values(cross_entropy=loss), Targets(), MANY)
    assert set(found.values()) == {-1.0} and {"constant", "worse", "association", "lost"} == set(found)


def test_few_samples_say_nothing_about_the_association() -> None:
    assert "association" not in statistics(values(association=0.0), Targets(), 999.0)
    assert "association" in statistics(values(association=0.0), Targets(), 1000.0)


def test_all_background_is_a_failure_of_pixels_only() -> None:
    empty = values(balanced_skill=0.0, soft_balanced_skill=0.02)
    assert below(statistics(empty, Targets(dense=True), MANY)) == {"background"}
    assert not below(statistics(empty, Targets(), MANY))
    assert not below(statistics(values(balanced_skill=0.02, soft_balanced_skill=0.0), Targets(dense=True), MANY))
    assert "background" not in statistics(values(balanced_skill=math.nan), Targets(dense=True), MANY)


@pytest.mark.parametrize(("skill", "spread", "wanted"), [(0.01, 1e-5, {"constant"}), (0.2, 1e-5, set())])
def test_a_regression_in_other_units_may_have_any_spread_if_it_is_followed(
    skill: float, spread: float, wanted: set[str]
) -> None:
    found = statistics(values(skill=skill, _spread=spread), Targets("numbers", paired=True), MANY)
    assert below(found) == wanted and found["lost"] == skill and "worse" not in found


def test_of_quantiles_only_the_association_is_asked() -> None:
    asked = values(correlation=0.5)
    del asked["skill"]
    found = statistics(asked, Targets("numbers", paired=True, quantiles=True), MANY)
    assert found == {"constant": 1.0, "association": 5.0}


def test_where_the_spread_is_not_known_the_association_is_not_asked() -> None:
    found = statistics(values(_spread=math.nan, association=0.0), Targets(), MANY)
    assert "association" not in found and "skill" not in found


def test_an_alarm_of_no_association_ends_on_known_samples_when_there_is_some_skill() -> None:
    known: dict[str, Any] = {"seen_before": 1.0, "association": 0.5, "_lately": 0.5}
    assert association(known, 0.01, MANY, unrelated=True) == {"association": 1.0, "skill": 0.01}
    assert association(known, 0.05, MANY, unrelated=True) == {"association": 5.0, "skill": 0.05}
    assert association(known, 0.05, MANY) == {"skill": 0.05}


def test_patience_is_that_of_the_user_and_learning_has_more_grace_than_keeping() -> None:
    rules = alarms(7)
    assert {alarm.patience for alarm in rules.values()} == {7}
    assert [grace_factor(n) for n in rules] == [1.0, 1.0, 3.0, 2.0, 2.0, 3.0, 0.5]
    assert worth(1.0) == pytest.approx(100.0), "a perfect skill has a bounded worth"


@pytest.mark.parametrize(("gain", "lost"), [(0.4, False), (0.05, True), (math.nan, True)])
def test_answers_that_are_mostly_right_are_not_lost_however_bad_their_probabilities_are(
    gain: float, lost: bool
) -> None:
    values = {
        "_spread": 0.5,
        "_score": 14.0,
        "association": 20.0,
        "seen_before": 1.0,
        "_lately": 20.0,
        "skill": -0.1,
        "macro_f1_gain": gain,
    }
    found = statistics({**values, "cross_entropy": 2.5}, Targets(), 2048.0)["lost"]
    assert (found < 0.25 * 0.5) is lost


@pytest.mark.parametrize(("gain", "worse"), [(0.65, False), (0.05, True), (math.nan, True)])
def test_a_loss_that_forgives_wrong_labels_makes_sure_of_its_answers_and_is_not_worse_than_a_constant(
    gain: float, worse: bool
) -> None:
    # 10 classes, three labels in ten wrong, probabilities of nearly 1: 0.3 * 9 nats beside an entropy of 2.3
    given = {"skill": -0.6, "moved_skill": -0.6, "macro_f1_gain": gain, "cross_entropy": 3.6}
    assert ("worse" in below(statistics(values(**given), Targets(), MANY))) is worse


@pytest.mark.parametrize(("network", "pooled", "alarmed"), [(-4.0, 0.3, False), (-4.0, 0.0, True), (0.02, 0.3, True)])
def test_answers_that_weights_of_classes_have_moved_are_judged_by_their_probabilities(
    network: float, pooled: float, alarmed: bool
) -> None:
    given = {"_by_network": network, "_by_reference": 0.8, "_pooled": pooled, "macro_f1_gain": 0.0}
    assert ("behind" in below(statistics(values(**given), Targets(), MANY))) is alarmed
