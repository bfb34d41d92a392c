from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks.precision.scale_policy import ScalePolicy, on_host


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
