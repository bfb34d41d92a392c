from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe

ALONE: Any = SimpleNamespace(trainer=SimpleNamespace(world_size=1))


def test_a_check_waits_for_enough_samples_but_not_for_ever() -> None:
    probe = Probe()
    assert not probe.ready(ALONE, 1000, 100), "nothing was gathered"
    probe.sums["rows"] = torch.ones(3)
    assert [probe.ready(ALONE, 127, w) for w in (1, 7, 8)] == [False, False, True]
    assert probe.ready(ALONE, 128, 1)


def test_rows_are_kept_as_copies_one_after_the_other() -> None:
    probe, rows = Probe(), torch.ones(2, 3)
    probe.keep("rows", rows)
    rows.zero_()
    probe.keep("rows", torch.full((1, 3), 2.0))
    assert probe.sums["rows"].tolist() == [[1.0] * 3, [1.0] * 3, [2.0] * 3]


def test_by_default_alarms_follow_the_values_of_their_names() -> None:
    judge = Judge("D", {"a": Alarm(below=0.1), "b": Alarm(below=0.1)}, lambda _: 1.0)
    assert Probe().statistics({"a": 1.0, "c": 2.0}, judge) == {"a": 1.0}


def test_a_probe_without_alarms_has_nothing_to_explain() -> None:
    with pytest.raises(LookupError, match="Probe has no alarms to explain"):
        Probe().explain([], {}, Judge("D", {}, lambda _: 1.0))


def test_only_a_probe_that_overrides_it_is_asked_to_gather() -> None:
    class Gathers(Probe):
        def gather(self, run: Any, batch: Any, outputs: Any, *, first: bool) -> int:
            return 1

    assert (Probe().gathers, Gathers().gathers) == (False, True)
