from __future__ import annotations

from lightning_tricks.gradients.clip_summary import clipped_fraction, mean_coefficient, suggested_threshold, summary


def test_ratios_of_nothing_are_those_of_a_run_without_clipping() -> None:
    nothing = {"updates": 0.0, "clipped": 0.0, "coefficients": 0.0}
    assert (clipped_fraction(nothing), mean_coefficient(nothing)) == (0.0, 1.0)
    whole = {"updates": 10.0, "clipped": 4.0, "coefficients": 1.0}
    assert (clipped_fraction(whole), mean_coefficient(whole)) == (0.4, 0.25)


def test_a_threshold_is_a_number_only_for_one_model() -> None:
    assert suggested_threshold({}) is None
    assert suggested_threshold({0: {}}) is None
    assert suggested_threshold({0: {"head": 1.0, "body": 2.0}}) == {"head": 1.0, "body": 2.0}
    assert suggested_threshold({2: {"model": 1.5}}) == 1.5


def test_the_line_at_the_end_leaves_out_what_is_not_known() -> None:
    assert summary("AGC()", 0.0, 1.0, None) == "GradientClip(AGC()): clipped 0.0% of the updates."
    assert summary("r", 0.5, 0.25, {"a": 1.0}).endswith(
        "clipped 50.0% of the updates, to 0.25 of their norm on average."
    )
