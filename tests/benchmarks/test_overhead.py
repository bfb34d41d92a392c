from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.__main__ import main
from benchmarks.measure import Lane, interleave, median_interval
from benchmarks.overhead import LOOK, MODULES, LookAgain, Module, markdown, trainer
from lightning_tricks import TrainingDoctor


@pytest.mark.filterwarnings("ignore")
def test_the_overhead_table_runs_and_is_made_from_its_json(tmp_path: Path) -> None:
    out = tmp_path / "overhead.json"
    assert (
        main(
            ["run", "overhead", "--quick", "--profile", "cpu", "--only", "GradientMonitor,clip_val", "--out", str(out)]
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == markdown(result)
    assert result["complete"]
    assert not result["failures"]
    assert {"table", "command", "date", "environment", "method", "rows", "gates", "memory", "host_reads"} <= set(result)
    assert len(result["rows"][0]["seconds"]) == result["rounds"] == 5
    assert result["memory"]["a"]["all_allocations"] < 0.2 * result["memory"]["a"]["gradient_bytes"]
    assert all(reads == 0 for by_row in result["host_reads"].values() for reads in by_row.values())
    assert main(["compare", str(out), str(out)]) == 0


@pytest.mark.filterwarnings("ignore")
def test_what_is_seldom_in_a_run_is_measured_at_each_step(tmp_path: Path) -> None:
    out = tmp_path / "overhead.json"
    only = "first batch again,PrecisionDoctor, each step logged"
    quick = ["run", "overhead", "--quick", "--profile", "cpu", "--models", "c"]
    assert main([*quick, "--only", only, "--out", str(out)]) == 0
    rows = {row["row"]: row for row in json.loads(out.read_text())["rows"]}
    assert {LOOK, MODULES} <= set(rows)
    assert not any("refused" in row for row in rows.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("always", "looks"), [(True, 12), (False, 0)])
def test_the_first_batch_is_run_again_at_each_check_or_at_none(always: bool, looks: int) -> None:
    torch.manual_seed(0)
    doctor, again = TrainingDoctor(every_n_steps=1), LookAgain(always)
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(12)]
    t = trainer("cpu", "32-true", callbacks=[doctor, again], max_steps=12)
    t.fit(Module(torch.nn.Linear(4, 3), fused=True), DataLoader(batches, batch_size=None))
    followed = [check.fixed for check in doctor.probe.course.checks if math.isfinite(check.fixed)]
    assert again.looks == len(followed) == looks


def test_lanes_take_turns_and_give_every_round() -> None:
    log: list[str] = []

    def train(name: str):  # type: ignore[no-untyped-def]
        return lambda batches: [log.append(name) for _ in batches]

    lanes = [Lane(name, train(name), [0], 1) for name in "ab"]
    seconds = interleave(lanes, rounds=4, steps=3, warmup=2)
    for lane in lanes:
        lane.stop()
    assert [len(v) for v in seconds.values()] == [4, 4]
    assert sorted(log) == ["a"] * 14 + ["b"] * 14


def test_a_lane_that_fails_says_so() -> None:
    def train(batches: Lane) -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        Lane("x", train, [0], 1).block(1)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    draw, covered = random.Random(0), 0
    for i in range(100):
        estimate = median_interval([draw.gauss(1.0, 0.1) for _ in range(25)], seed=i, resamples=300)
        covered += estimate.low <= 1.0 <= estimate.high
    assert covered >= 88
    assert estimate.value == pytest.approx(statistics.median([estimate.value]))


# -- what only a GPU has, played --------------------------------------------------------------------------------------


class Event:
    """A CUDA event whose work is done after as many looks as ``late`` says."""

    late = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.looks = 0

    def record(self, stream: Any = None) -> None: ...

    def query(self) -> bool:
        self.looks += 1
        return self.looks > self.late

    def elapsed_time(self, other: Event) -> float:
        return 6.0


@pytest.mark.parametrize(("late", "wanted"), [(0, 1.0), (9, 0.0)])
def test_a_lane_knows_whether_the_gpu_keeps_up_with_the_host(
    late: int, wanted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "late", late)
    lane = Lane("x", lambda batches: [None for _ in batches], [0], 1)
    lane.block(3)
    lane.block(3)
    assert lane.readings.caught_up == wanted
    assert lane.readings.device_seconds == pytest.approx([0.002, 0.002]), "6 ms for 3 steps"
    assert len(lane.readings.thread_seconds) == 2
    lane.stop()


class KernelEvent:
    def __init__(
        self, name: str, start: int, duration: int, device: str = "DeviceType.CUDA", named: bool = False
    ) -> None:
        self.name, self.start_ns, self.duration_ns = (lambda: name), (lambda: start), (lambda: duration)
        self.device_type, self.is_user_annotation = (lambda: device), (lambda: named)


def test_the_time_of_kernels_leaves_out_ranges_that_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        KernelEvent("gemm", 0, 4_000_000), KernelEvent("copy, another stream", 2_000_000, 4_000_000),
        KernelEvent("Optimizer.step#SGD.step", 0, 90_000_000), KernelEvent("a range", 0, 90_000_000, named=True),
        KernelEvent("aten::mm", 0, 90_000_000, device="DeviceType.CPU"),
    ]  # fmt: skip

    class Profile:
        def __init__(self, activities: Any) -> None:
            self.profiler = self
            self.kineto_results = self

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *rest: Any) -> None: ...

        def events(self) -> list[KernelEvent]:
            return events

    lane = Lane("x", lambda batches: [None for _ in batches], [0], 1)
    assert lane.kernel_seconds() is None or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    assert lane.kernel_seconds(3) == pytest.approx(0.006 / 3), "4 ms and 4 ms that overlap by 2 ms"

    def broken(activities: Any) -> Any:
        raise RuntimeError("CUPTI is not there")

    monkeypatch.setattr(torch.profiler, "profile", broken)
    assert lane.kernel_seconds(3) is None
    lane.stop()


def test_running_out_of_memory_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import overhead

    def fails(error: Exception) -> Any:
        def fit(*arguments: Any, **named: Any) -> None:
            raise error

        return fit

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(overhead, "_short_fit", fails(torch.OutOfMemoryError("CUDA out of memory")))
    assert overhead.synchronizes("a", "32-true", []) == "not measured: OutOfMemoryError: CUDA out of memory"
    monkeypatch.setattr(overhead, "_short_fit", fails(RuntimeError("called a synchronizing CUDA operation")))
    assert overhead.synchronizes("a", "32-true", []) == "called a synchronizing CUDA operation"
    monkeypatch.setattr(overhead, "_short_fit", lambda *arguments, **named: None)
    assert overhead.synchronizes("a", "32-true", []) is None


def test_intervals_are_wider_when_sessions_differ() -> None:
    values = [1.0, 1.01, 2.0, 2.01, 3.0, 3.01]
    alike, apart = median_interval(values), median_interval(values, sessions=[0, 0, 1, 1, 2, 2])
    assert apart.high - apart.low >= alike.high - alike.low
    assert apart.value == alike.value
    assert median_interval([1.0, 3.0], sessions=[0, 0]).value == 2.0


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--rounds", "4"], "must be at least 5"), (["--sessions", "0"], "must be at least 1")]
)
def test_rounds_that_say_nothing_are_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "overhead", "--profile", "cpu", *arguments])
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.filterwarnings("ignore")
def test_a_part_that_fails_is_noted_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import overhead

    real = overhead.measure_times

    def times(model: str, fused: bool, *rest: Any) -> Any:
        if fused:
            raise torch.OutOfMemoryError("no memory")
        saved.append(json.loads((tmp_path / "o.json").read_text()))
        return real(model, fused, *rest)

    saved: list[Any] = []
    monkeypatch.setattr(overhead, "measure_times", times)
    out = tmp_path / "o"
    assert main(["run", "overhead", "--quick", "--profile", "cpu", "--only", "clip_val", "--out", str(out)]) == 0
    result = json.loads((tmp_path / "o.json").read_text())
    assert saved[0]["failures"]
    assert not saved[0]["complete"]
    assert result["failures"] == {"a, fused": "OutOfMemoryError: no memory"}
    assert {row["optimizer"] for row in result["rows"]} == {"foreach"}
    assert "**Not measured: a, fused. OutOfMemoryError: no memory**" in (tmp_path / "o.md").read_text()
