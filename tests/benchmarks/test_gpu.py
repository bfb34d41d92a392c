from __future__ import annotations

import argparse
import copy
import ctypes
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.gpu import amp, correctness, environment, memory, overhead, report, suite
from benchmarks.gpu.nvml import Meter, meter_of
from benchmarks.gpu.plan import KILL, PARTS, RESERVE, START, Part, schedule
from benchmarks.gpu.rows import AGAIN, Clock, Context, Task, UnavailableError, is_whole, load, measured, play, reopened
from benchmarks.measure import TooLittleTimeError

CPU = torch.device("cpu")
HEADER: dict[str, Any] = {
    "table": "gpu", "schema": 1, "part": "x", "device": "cpu", "small": True, "text": "a part", "command": "c",
    "date": "2026-01-01", "environment": {"gpu": None, "cpu": "a cpu", "torch": "2", "lightning": "2", "commit": "abc"},
    "complete": False, "current": None, "state": "begun",
}  # fmt: skip


# -- the whole suite on a CPU -----------------------------------------------------------------------------------------


# 24 seconds are enough for tasks of every part but the first; a minute is enough for several tasks of each
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [24, pytest.param(60, marks=pytest.mark.slow)])
def test_the_suite_ends_in_time_and_nothing_in_it_fails(seconds: int, tmp_path: Path, capsys: Any) -> None:
    began = time.time()
    code = main(["gpu", "--device", "cpu", "--seconds", str(seconds), "--out", str(tmp_path)])
    assert time.time() - began < seconds + 2 * KILL + 60, "the rest is for a machine that is busy with other things"
    shown = capsys.readouterr().out
    assert "# GPU suite: summary" in shown
    assert (tmp_path / "summary.md").read_text() in shown
    done = 0
    for part in PARTS:
        found = load(tmp_path / f"{part.name}.json")
        assert found is not None, part.name
        assert (tmp_path / f"{part.name}.md").read_text() == report.markdown(found)
        for row in found["rows"]:
            assert row["status"] != "failed", (part.name, row)
            done += row["status"] == "ok"
            if part.name == "correctness":
                assert all(m.get("reached", True) for m in row["measured"]), row
        assert main(["compare", str(tmp_path / f"{part.name}.json"), str(tmp_path / f"{part.name}.json")]) == 0
    # (on a machine that is busy with other things, 24 seconds may be over before the first task is)
    assert done > 0 or seconds < 60
    assert code == 0 or "stopped" in shown


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 5.0, 12.0, 30.0, 60.0, 540.0, 5000.0])
@pytest.mark.parametrize("starts", [0, 1, 5])
def test_the_parts_of_a_plan_fit_into_its_time_in_the_order_of_their_worth(seconds: float, starts: int) -> None:
    slots = schedule(PARTS, seconds, starts)
    assert [slot.part for slot in slots] == list(PARTS[: len(slots)])
    if slots:
        later = START * min(starts, len(slots) - 1)
        assert sum(slot.seconds for slot in slots) + later <= seconds - RESERVE + 1e-6
        assert all(slot.seconds > 0 for slot in slots)


def test_time_that_a_part_did_not_use_goes_to_the_later_ones() -> None:
    assert schedule(PARTS[1:], 520, 3)[0].seconds > schedule(PARTS, 540, 4)[1].seconds


# -- tasks of one part ------------------------------------------------------------------------------------------------


def played(tasks: list[Task], path: Path, seconds: float = 60.0, rows: Any = ()) -> tuple[int, dict[str, Any]]:
    code = play(tasks, {**HEADER, "rows": list(rows)}, path, Clock(time.time() + seconds))
    found = load(path)
    assert found is not None
    return code, found


def fail(error: Exception) -> Any:
    def run(clock: Clock) -> Any:
        raise error

    return run


def test_a_failure_is_a_row_and_the_file_is_whole_after_every_task(tmp_path: Path) -> None:
    path, seen = tmp_path / "x.json", []

    def look(clock: Clock) -> Any:
        found = load(path)
        assert found is not None
        seen.append([row["status"] for row in found["rows"]])
        assert found["current"]["task"] == "look"
        return [measured("a", 1.0)]

    tasks = [
        Task("bad", fail(ValueError("why | not"))), Task("absent", fail(UnavailableError("nowhere"))),
        Task("short", fail(TooLittleTimeError("2 rounds"))), Task("look", look), Task("long", look, least=1e6),
    ]  # fmt: skip
    code, found = played(tasks, path)
    assert code == 0
    assert seen == [["failed", "unavailable", "no time left"]]
    assert [row["status"] for row in found["rows"]] == ["failed", "unavailable", "no time left", "ok", "no time left"]
    assert found["rows"][0]["reason"] == "ValueError: why | not"
    assert not found["complete"]
    assert found["state"] == "done"
    assert "| bad | failed | ValueError: why / not |" in path.with_suffix(".md").read_text()


def test_a_device_that_is_broken_asks_for_a_new_process(tmp_path: Path) -> None:
    tasks = [Task("breaks", fail(RuntimeError("CUDA error: device-side assert"))), Task("next", lambda clock: [])]
    code, found = played(tasks, tmp_path / "x.json")
    assert code == AGAIN
    assert [row["task"] for row in found["rows"]] == ["breaks"]
    code, found = played(tasks, tmp_path / "x.json", rows=found["rows"])
    assert code == 0
    assert [row["status"] for row in found["rows"]] == ["failed", "ok"]
    assert found["complete"]


def test_what_was_tried_is_kept_by_resume_and_the_rest_is_tried() -> None:
    rows = [
        {"task": s, "status": s, "measured": []} for s in ("ok", "failed", "unavailable", "no time left", "stopped")
    ]
    old = {**HEADER, "rows": rows}
    assert [row["task"] for row in reopened(old, HEADER)["rows"]] == ["ok", "failed", "unavailable"]
    assert reopened({**old, "device": "cuda"}, HEADER)["rows"] == []
    assert reopened(None, HEADER)["rows"] == []
    assert is_whole({**old, "complete": True}, HEADER)
    assert not is_whole({**old, "complete": True, "schema": 2}, HEADER)
    assert not is_whole(old, HEADER)


def test_a_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    assert load(tmp_path / "a.json") is load(tmp_path / "b.json") is load(tmp_path / "c.json") is None


def test_resume_leaves_out_whole_parts(tmp_path: Path, capsys: Any) -> None:
    arguments = ["gpu", "--device", "cpu", "--seconds", "1", "--parts", "memory", "--out", str(tmp_path), "--resume"]
    assert main(arguments) == 0
    first = load(tmp_path / "memory.json")
    assert first is not None
    assert first["state"] == "no time left"
    assert "memory: whole already" not in capsys.readouterr().out
    whole = {**first, "complete": True, "state": "done", "rows": [{"task": "a", "status": "ok", "measured": []}]}
    (tmp_path / "memory.json").write_text(json.dumps(whole))
    assert main(arguments) == 0
    assert "memory: whole already" in capsys.readouterr().out
    assert load(tmp_path / "memory.json") == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "0"], "must be > 0"),
        (["--parts", "amp,speed"], "--parts speed: not one of environment, correctness, amp, overhead, memory"),
        (["--data-root", "nowhere"], "no such folder"),
        (["--device", "quantum"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], words: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["gpu", *arguments])
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_torch_does_not_see_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["gpu", "--device", "cuda"])
    assert "--device cuda: this torch sees none. It sees: cpu" in " ".join(capsys.readouterr().err.split())


@pytest.mark.timeout(118)
def test_what_hangs_or_dies_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    part = Part("played", "what may happen", 1.0, "tests.benchmarks.played_part")
    options = argparse.Namespace(device="cpu", out=tmp_path, data_root=None)
    path = tmp_path / "played.json"
    path.write_text(json.dumps({**HEADER, "part": "played", "rows": []}))
    with closing(suite.Worker(options)) as worker:
        suite._run(options, worker, part, time.time() + 100)
        assert worker.ready(0.0), "a process that works is used again"
    found = load(path)
    assert found is not None
    assert {row["task"]: row["status"] for row in found["rows"]} == {
        "fine": "ok", "fails": "failed", "hangs": "stopped", "takes its process with it": "failed",
        "breaks the device": "failed", "is not there": "unavailable", "comes after": "ok", "needs an hour": "no time left",
    }  # fmt: skip
    by_name = {row["task"]: row for row in found["rows"]}
    assert by_name["hangs"]["reason"] == "it took longer than its limit and was killed"
    assert by_name["takes its process with it"]["reason"].startswith("the process ended with 3")
    text = report.summary([found])
    assert "| played | done | 2 | 3 | 1 | 2 | 1 of 2 |" in text
    assert "| played | fails | failed | ValueError: a reason |" in text


@pytest.mark.timeout(60)
def test_a_part_that_cannot_start_says_why(tmp_path: Path) -> None:
    part = Part("played", "nothing", 1.0, "tests.benchmarks.no_such_module")
    options = argparse.Namespace(device="cpu", out=tmp_path, data_root=None)
    path = tmp_path / "played.json"
    path.write_text(json.dumps({**HEADER, "part": "played", "rows": []}))
    with closing(suite.Worker(options)) as worker:
        suite._run(options, worker, part, time.time() + 50)
    found = load(path)
    assert found is not None
    assert found["rows"][0]["task"] == "start"
    assert "No module named 'tests.benchmarks.no_such_module'" in found["rows"][0]["reason"]


# -- what the parts measure -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [environment, correctness, amp, overhead, memory])
@pytest.mark.parametrize("kind", ["cpu", "cuda", "xpu"])
def test_every_part_has_tasks_of_different_names(part: Any, kind: str, tmp_path: Path) -> None:
    found = part.tasks(Context(torch.device(kind), tmp_path, tmp_path))
    names = [task.name for task in found]
    assert len(names) == len(set(names)) > 3
    assert {"speed: gpt", "speed: resnet50"} <= set(names) or part is not amp or kind != "cuda"


def test_lightning_has_no_accelerator_for_every_device(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no accelerator for xpu"):
        Context(torch.device("xpu"), tmp_path).accelerator  # noqa: B018
    assert Context(CPU, tmp_path).accelerator == "cpu"


def test_ceilings_are_those_of_the_environment() -> None:
    def row(task: str, value: float) -> dict[str, Any]:
        return {"task": task, "status": "ok", "measured": [measured("x", value)]}

    rows = [
        row("copy", 3000.0),
        *(row(f"product, {p}", v) for p, v in (("ieee-fp32", 50.0), ("tf32", 400.0), ("bf16-mixed", 700.0))),
    ]
    found = environment.ceilings({"rows": rows})
    assert found is not None
    assert found["bytes_per_second"] == 3e12
    assert found["flops"]["bf16-true"] == 700e12
    assert found["flops"]["torch-default"] == 400e12
    assert environment.ceilings({"rows": rows[1:]}) is None
    assert environment.ceilings(None) is None


def cell(setting: str, **more: Any) -> dict[str, Any]:
    spread = {"value": 5.0, "low": 4.0, "high": 6.0}
    return {"setting": setting, "status": "ok", "milliseconds": spread, "per_second": 10.0, "unit": "tokens", "peak_bytes": 2**20, **more}  # fmt: skip


def test_goals_of_a_gpu_are_judged() -> None:
    speed = {"value": 2.0, "low": 1.8, "high": 2.1}
    cells = [
        cell("tf32"), cell("bf16-mixed", faster_than_tf32=speed, memory_of_tf32=0.8, launch_bound=True, pack_cost=speed),
        cell("16-mixed", status="error"),
    ]  # fmt: skip
    found = {m["what"]: m for m in amp.values(cells, "gpt")}
    assert found["bf16-mixed over tf32, speed"]["reached"]
    assert found["bf16-mixed over tf32, speed"]["limit"] == ">= 1.9"
    assert not found["bf16-mixed of tf32, memory"]["reached"]
    assert found["bf16-mixed, waits for the host"]["value"] == "yes"
    assert found["bf16-mixed, the pack over none, 1 of 50 logged"]["low"] == 1.8
    assert not any(what.startswith("16-mixed") for what in found)
    with pytest.raises(RuntimeError, match="no cell was measured: out of memory"):
        amp.values([cell("tf32", status="out of memory", reason="out of memory")], "gpt")


def test_goals_of_the_overhead_are_judged() -> None:
    rounds = 6
    seconds = {
        overhead.BARE: [0.010] * rounds, overhead.CLIP_VAL: [0.011] * rounds, overhead.BOTH: [0.0104] * rounds,
        overhead.LISTED_OFF: [0.0102] * rounds,
    }  # fmt: skip
    clocks: dict[str, Any] = {name: {"thread_seconds": [0.009]} for name in seconds}
    found = {m["what"]: m for m in overhead.values(seconds, clocks, [0, 0, 1, 1, 2, 2], "a")}
    share = found["monitor + clip: added time over that of gradient_clip_val"]
    assert share["value"] == pytest.approx(0.4)
    assert share["reached"]
    assert not found[f"{overhead.LISTED_OFF}, over the bare Trainer"]["reached"]
    assert found[f"{overhead.BOTH}, CPU time of the Python thread"]["value"] == pytest.approx(9.0)


def test_a_lost_limit_and_a_new_failure_are_regressions(tmp_path: Path) -> None:
    spread = {"value": 2.0, "low": 1.9, "high": 2.1}
    rows = [
        {"task": "a", "status": "ok", "measured": [measured("speed", None, "x", interval=spread, at_least=1.9)]},
        {"task": "b", "status": "ok", "measured": [measured("steps", 3.0)]},
    ]
    old = {**HEADER, "rows": rows}
    assert report.compare(old, old)[1] == 0
    new = copy.deepcopy(old)
    new["rows"][0]["measured"][0].update(value=1.5, low=1.4, high=1.6, reached=False)
    text, code = report.compare(old, new)
    assert code == 1
    assert "| a | speed | 2 [1.9, 2.1] x | 1.5 [1.4, 1.6] x | WORSE |" in text
    new = copy.deepcopy(old)
    new["rows"][1].update(status="failed", reason="why", measured=[])
    assert report.compare(old, new)[1] == 1
    new["rows"] = new["rows"][:1]
    assert report.compare(old, new)[1] == 0
    for path, result in (("old", old), ("other", {**old, "part": "y"})):
        (tmp_path / f"{path}.json").write_text(json.dumps(result))
    with pytest.raises(SystemExit, match=r"is of the part and size \('x', True\)"):
        main(["compare", str(tmp_path / "old.json"), str(tmp_path / "other.json")])


# -- NVIDIA's driver --------------------------------------------------------------------------------------------------


class Library:
    """Answers as libnvidia-ml does for a GPU without ECC."""

    def __getattr__(self, name: str) -> Any:
        known = {
            "nvmlInit_v2": None, "nvmlDeviceGetHandleByUUID": 7, "nvmlDeviceGetHandleByIndex_v2": 7,
            "nvmlDeviceGetTotalEnergyConsumption": 1500, "nvmlDeviceGetPowerUsage": 300_000,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000, "nvmlDeviceGetClockInfo": 1980, "nvmlDeviceGetMaxClockInfo": 2010,
            "nvmlDeviceGetTemperature": 41, "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x40,
        }  # fmt: skip
        if name == "nvmlDeviceGetEccMode":
            return lambda *arguments: 3
        if name not in known:
            raise AttributeError(name)

        def answer(*arguments: Any) -> int:
            if known[name] is not None:
                arguments[-1]._obj.value = known[name]
            return 0

        return answer


def test_the_driver_is_asked_through_its_library() -> None:
    meter = Meter("abc", Library())
    assert (meter.joules(), meter.watts(), meter.power_cap()) == (1.5, 300.0, 700.0)
    assert (meter.megahertz(), meter.most_megahertz(), meter.celsius()) == (1980, 2010, 41)
    assert meter.throttled() == ["power cap", "hardware thermal"]
    assert meter.ecc() is None
    assert isinstance(meter._handle, ctypes.c_void_p)


def test_where_there_is_no_driver_nothing_is_known() -> None:
    meter = meter_of(CPU)
    assert [meter.joules(), meter.watts(), meter.throttled(), meter.ecc()] == [None] * 4
