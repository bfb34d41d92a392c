from __future__ import annotations

import math

import pytest

from lightning_tricks.collapse.recent_checks import RecentChecks


def test_scores_of_the_last_eight_checks_are_pooled() -> None:
    recent = RecentChecks()
    found = [recent.score(z) for z in [10.0, *[2.0] * 8]]
    assert found[0] == 10.0 and found[-1] == pytest.approx(16 / math.sqrt(8))
    assert recent.score(math.nan) == pytest.approx(14 / math.sqrt(8))
    assert [recent.score(-2.0, both_signs=True) for _ in range(8)][-1] == pytest.approx(16 / math.sqrt(8))


def test_skills_of_the_last_four_checks_are_averaged_and_one_that_is_not_known_leaves_none() -> None:
    recent = RecentChecks()
    found = [recent.skills(*pair) for pair in [(math.nan, 0.5), (0.1, 0.5), (0.2, 0.6), (0.3, 0.7), (0.4, 0.8)]]
    assert math.isnan(found[3][0]) and found[-1] == pytest.approx((0.25, 0.65))


@pytest.mark.parametrize(
    ("extents", "grown"),
    [
        ([2.0] * 4 + [3.0] * 4 + [4.0] * 4, [5, 9]),
        ([10.0, 12.0, 9.0, 12.0, 10.0, 12.0, 12.5, 12.5], []),
        ([64.0] * 3 + [32.0] * 3 + [64.0] * 3, []),
        ([8.0, 8.0, 16.0, 8.0, 16.0, 16.0], []),
        ([5.0, math.nan, 5.0, 9.0, math.nan, 9.0], [5]),
    ],
    ids=["longer in stages", "padded to the longest", "smaller for a time", "one long batch", "unknown at times"],
)
def test_samples_that_grow_for_good_are_told_from_those_that_differ(extents: list[float], grown: list[int]) -> None:
    recent = RecentChecks()
    found = []
    for i, extent in enumerate(extents):
        found += [i] if recent.grew(extent) else []
        recent = RecentChecks(**recent.state())
    assert found == grown


def test_what_is_kept_makes_the_same_again() -> None:
    recent = RecentChecks()
    for i in range(12):
        recent.score(float(i)), recent.skills(0.1 * i, 0.5)
    again = RecentChecks(**recent.state())
    assert again.score(1.0) == recent.score(1.0) and again.skills(0.5, 0.5) == recent.skills(0.5, 0.5)
