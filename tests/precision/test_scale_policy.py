from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks.precision.scale_policy import ScalePolicy, SkipCount, describe_failure, on_host


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"min_scale": 0.0}, ValueError, "min_scale must be > 0"),
        ({"min_scale": float("nan")}, ValueError, "min_scale must be > 0"),
        ({"min_scale": "1"}, TypeError, "a number"),
        ({"min_scale": 2.0, "max_scale": 1.0}, ValueError, "at least min_scale, 2"),
        ({"max_scale": -1.0}, ValueError, "max_scale must be > 0"),
        ({"max_consecutive_skips": 0}, ValueError, "whole number >= 1"),
        ({"max_consecutive_skips": 2.5}, TypeError, "whole number >= 1"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ScalePolicy(**arguments)


def test_counts_on_the_device_are_those_on_the_host() -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = (torch.rand(200, generator=generator) < 0.6).tolist()
    policy = ScalePolicy()
    there, here, run = policy.init(), policy.init(), 0
    for skipped in pattern:
        run = run + 1 if skipped else 0
        there, here = policy.update(torch.tensor(float(skipped)), there), policy.update(skipped, here)
        assert here["consecutive"] == int(there["consecutive"]) == run
    assert on_host(there) == here
    assert here["skipped"] == sum(pattern)


def test_a_failure_is_one_more_than_is_tolerated() -> None:
    policy = ScalePolicy(max_consecutive_skips=3)
    assert [policy.failed(n) for n in range(6)] == [False, False, False, False, True, True]


def test_found_inf_of_several_devices_counts_once() -> None:
    policy = ScalePolicy()
    assert on_host(policy.update(torch.tensor(2.0), policy.init())) == {"version": 1, "consecutive": 1, "skipped": 1}


def test_what_happens_on_a_failure_is_one_of_four() -> None:
    with pytest.raises(ValueError, match=r"LossScaleGuard\(on_failure='stop'\): on_failure must be one of raise, warn"):
        ScalePolicy(on_failure="stop")


@pytest.mark.parametrize("delay", [0, 1, 5])
def test_a_count_that_arrives_late_is_never_below_what_is_possible(delay: int) -> None:
    """The device's count of each attempt arrives ``delay`` attempts later: the host is never taken by surprise."""
    generator = torch.Generator().manual_seed(delay)
    pattern = (torch.rand(100, generator=generator) < 0.8).tolist()
    policy, count, run, under_way = ScalePolicy(), SkipCount(ScalePolicy().init()), 0, []
    for skipped in pattern:
        run = run + 1 if skipped else 0
        count = count.after(torch.tensor(float(skipped)), policy)
        under_way.append((run, count.attempts))
        if len(under_way) > delay:
            count = count.told(*under_way.pop(0))
        assert count.possible >= run
        assert count.up_to_date is (delay == 0)
        assert count.up_to_date <= (count.consecutive == run)
    assert on_host(count.state)["skipped"] == sum(pattern)


def test_a_count_goes_on_after_a_resume_and_begins_from_zero_when_it_is_forgiven() -> None:
    saved = {"version": 1, "consecutive": 3, "skipped": 7}
    count = SkipCount.resumed(saved).after(True, ScalePolicy())
    assert (count.consecutive, count.attempts, count.state["skipped"]) == (4, 1, 8)
    assert saved["consecutive"] == 3, "the state of the checkpoint is not changed"
    assert (count.forgiven().consecutive, count.forgiven().state["skipped"]) == (0, 8)
    assert [ScalePolicy(max_consecutive_skips=6).may_matter(n) for n in range(6)] == [False] * 4 + [True] * 2


def test_a_failure_is_described_with_what_is_known() -> None:
    known: dict[str, Any] = {"consecutive": 3, "attempt": 9, "step": 8, "names": [], "loss_finite": False}
    text = describe_failure(scale=None, causes=[], **known)
    assert text == (
        "3 attempts in a row were skipped, the last one attempt 9 (step 8). Gradients with NaN or inf: none now. "
        "The loss was not finite. PrecisionDoctor() beside it names the module; precision='bf16-mixed' has the range "
        "of float32."
    )
    assert describe_failure(scale=0.5, causes=["a.", "b."], **known).endswith("The loss was not finite. a. b.")
