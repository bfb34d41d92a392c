"""What an alarm of TrainingDoctor is called, and the numbers that decided."""

from __future__ import annotations

import pytest

from lightning_tricks.diagnosis.course_causes import CourseAlarm, explain
from lightning_tricks.diagnosis.loss_curve import Check


def test_a_loss_that_rises_since_the_weights_shrink_is_named_after_them() -> None:
    checks = [Check(i, 0.1 + i, 0.1 + i, weights=0.85**i) for i in range(6)]
    steady = [c._replace(weights=1.0) for c in checks]
    assert explain(CourseAlarm("divergence", {}, [0.1], checks, []))[0] == "shrinking weights"
    assert explain(CourseAlarm("divergence", {}, [0.1], steady, []))[0] == "divergence"


@pytest.mark.parametrize(
    ("alarm", "values", "cause", "words"),
    [
        ("finite", {}, "non-finite values", "first 'net.2.weight'"),
        ("divergence", {}, "divergence", "the median loss is 9, and the largest of the first ones was 2.5"),
        ("flow", {"first_gradient": 1e-9, "last_gradient": 0.2}, "vanishing gradients", "1e-09 in the first layer"),
        ("silence", {"_silent": 1.0}, "no gradients", "no parameter of the optimizer gets a gradient"),
        ("spike", {}, "loss spikes", "jumped and stays at 9, after 9"),
        (
            "blow-up",
            {},
            "learning rate too high",
            "went from 2 to 50 around step 10, and is 9 now; updates were up to 0.5",
        ),
        ("blow-up", {"_row": 1.0}, "loss spikes", "first 'net.2.weight'"),
        ("idle", {}, "weights do not change", "most of the run is still to come"),
        ("updates", {"batches": 100.0}, "weights do not change", "no optimizer made a step in 100 batches"),
        ("evaluation", {}, "evaluation differs", "from 2 to 9 in training mode; in eval mode, on the first batch"),
        ("shrinkage", {}, "shrinking weights", "at 1.0% of their first norm"),
        ("generalisation", {"loss": 0.1}, "overfitting", "rose from 0.5 to 0.9 while training reached 0.1"),
    ],
)
def test_every_alarm_has_a_name_the_numbers_that_decided_and_advice(
    alarm: str, values: dict[str, float], cause: str, words: str
) -> None:
    checks = [Check(10, 50.0, 9.0, ratio=0.5, weights=0.01), *[Check(20 + i, 9.0, 9.0, weights=0.01) for i in range(5)]]
    found, evidence, advice = explain(
        CourseAlarm(alarm, values, [2.0, 2.5, 1.9, 2.0, 2.0], checks, [0.5, 0.9], "first 'net.2.weight'")
    )
    assert found == cause
    assert words in "; ".join(evidence)
    assert len(advice) == 3


def test_a_loss_without_a_least_value_is_not_a_matter_of_the_rate_alone() -> None:
    checks = [Check(10 * i, -(10.0**i), -(10.0**i)) for i in range(9)]
    cause, evidence, advice = explain(CourseAlarm("divergence", {}, [1.0], checks, []))
    assert cause == "divergence" and "falls without bound: it began at 1" in evidence[0] and "bound" in advice[0]


def test_a_rate_that_was_never_large_enough_is_told_from_one_that_is_gone() -> None:
    still = [Check(10 * i, 0.7, 0.7, rate=2e-8, ratio=4e-7) for i in range(9)]
    cause, evidence, advice = explain(CourseAlarm("idle", {}, [0.7], still, []))
    assert (cause, advice) == ("weights do not change", ("raise the learning rate: LRFinder() finds one",))
    assert evidence == ("an update changes the weights by at most 4e-07 of their size, at a learning rate of 2e-08",)
    gone = [*still, Check(90, 0.7, 0.7, rate=1e-15, ratio=4e-7)]
    assert "most of the run is still to come" in explain(CourseAlarm("idle", {}, [0.7], gone, []))[1][0]


def test_a_decay_that_nothing_outlasts_is_named_with_its_size() -> None:
    checks = [Check(i, 2.0, 2.0, rate=0.01, weights=0.9) for i in range(10)]
    cause, evidence, advice = explain(CourseAlarm("shrinkage", {}, [2.0], checks, [], decay=0.3))
    assert cause == "shrinking weights"
    assert evidence == ("learning rate times weight decay is 0.3: each update takes 30% off the weights",)
    assert advice[0].startswith("lower the weight decay")
