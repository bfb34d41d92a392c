from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks import MemoryDoctor
from lightning_tricks.detection.causes import Cause
from lightning_tricks.detection.judge import Judge
from lightning_tricks.diagnosis.memory import Growth, Moment
from lightning_tricks.diagnosis.memory_probe import MemoryParts, MemoryProbe, moment_of, numbers_of
from lightning_tricks.diagnosis.memory_readings import Reading
from tests.problems import Classifier, fit

LEAK = Growth("module.losses", "graph", True, per_update=4.0, held=10.0, nbytes=40.0)
CACHE = Growth("module.cache", "tensors", False, per_update=4.0, held=10.0, nbytes=40.0)


def made() -> tuple[MemoryProbe, Judge]:
    probe = MemoryProbe(MemoryParts.made())
    judge = Judge("MemoryDoctor", probe.rules(), probe.grace_factor)
    probe._judge = judge
    return probe, judge


@pytest.mark.parametrize("on_device", [True, False])
def test_numbers_come_back_as_values(on_device: bool) -> None:
    probe, judge = made()
    probe.parts.level.on_device = on_device
    reading = Reading(allocated=4e9 if on_device else math.nan, resident=2e9)
    values = probe.read(numbers_of(reading, 3e9, 7, 5e3, [CACHE, LEAK]).tolist(), judge)
    assert values.pop("_certain") == 1.0
    assert values == {
        **({"allocated": 3000.0} if on_device else {}),
        "resident": 2000.0,
        "live_tensors": 7.0,
        "growth_per_step": 5.0,
    }


@pytest.mark.parametrize(("growths", "margin"), [([LEAK], 0.0), ([CACHE], 1.0), ([], 1.0)])
def test_what_is_certain_is_an_alarm_at_once(growths: list[Growth], margin: float) -> None:
    probe, judge = made()
    values = probe.read(numbers_of(Reading(), math.nan, 0, 0.0, growths).nan_to_num().tolist(), judge)
    assert probe.statistics(values, judge) == {"kept": margin}
    assert judge.follow(probe.statistics(values, judge)) == (["kept"] if margin == 0.0 else [])


def test_the_holder_is_named_and_another_process_where_this_one_has_none() -> None:
    probe, judge = made()
    assert "another process" in probe.explain(["kept"], {}, judge)[1][0]
    probe.growths = {g.holder: g for g in (CACHE, LEAK)}
    cause, reasons, _ = probe.explain(["kept"], {}, judge)
    assert (
        cause is Cause.MEMORY_GROWTH and len(reasons) == 1 and reasons[0].startswith("module.losses keeps 10 tensors")
    )


def test_memory_without_a_holder_names_the_commonest_tensors() -> None:
    probe, judge = made()
    probe.growths = {"": Growth("", "memory", True, 1e6, 0.0, 1e9, full_after=50.0)}
    alive = [torch.zeros(100) for _ in range(5)]
    assert alive and any("the commonest live tensors are" in reason for reason in probe.explain(["kept"], {}, judge)[1])


def test_what_grows_is_told_once_and_an_alarm_not_at_all() -> None:
    probe, _ = made()
    told: list[str] = []
    publisher = SimpleNamespace(put=lambda step, values: None, log_text=lambda step, name, text: told.append(text))
    run: Any = SimpleNamespace(publisher=publisher, step=3)
    for growths in ([CACHE], [CACHE, LEAK], [CACHE]):
        probe._note(run, growths)
    assert len(told) == 1 and told[0].startswith("module.cache holds 10 tensors")
    assert list(probe.growths) == ["module.cache", "module.losses"]


def test_readings_are_left_out_of_the_state_of_a_healthy_run() -> None:
    probe, judge = made()
    judge.conclude([], {"resident": 5.0}, lambda active: probe.explain(active, {}, judge))
    assert judge.state()["verdict"]["values"] == {"resident": 5.0}
    assert probe.state()["verdict"] == {**judge.state()["verdict"], "values": {}}
    probe.growths = {LEAK.holder: LEAK}
    values = {"resident": 5.0, "_certain": 1.0}
    judge.conclude(judge.follow({"kept": 0.0}), values, lambda active: probe.explain(active, values, judge))
    assert probe.state() == {}, "what an alarm was raised for is kept"


def test_a_moment_is_counted_in_updates_and_batches() -> None:
    progress = SimpleNamespace(current=SimpleNamespace(ready=4))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    trainer = SimpleNamespace(fit_loop=loop, current_epoch=2)
    run: Any = SimpleNamespace(trainer=trainer, clock=SimpleNamespace(attempted=lambda index: 24))
    assert moment_of(run) == Moment(24, 2, 4)


def test_a_fit_is_forgotten_but_not_what_was_found_in_the_run() -> None:
    doctor = MemoryDoctor(every_n_steps=2)
    fit(Classifier(), [doctor], n=64)
    doctor.probe.growths["x"] = CACHE
    parts = doctor.probe.parts
    assert parts.level.points == [] and not parts.looks.there and parts.first_step.by_module() == {}
    assert len(doctor.history) == 4 and doctor.findings[0].startswith("module.cache holds")
