"""Runs the parts one after the other, each in a process that is killed at its deadline, and prints one summary.

Order and time of the parts are in ``plan.py``; a part's tasks are in the module of its name. What happens to a part changes
nothing for the others: a task that fails is a row, a task that hangs or takes its process with it is a row too, and the rest
of the part goes on in a new process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import describe
from benchmarks.gpu import report
from benchmarks.gpu.plan import KILL, PARTS, RESERVE, START, Part, schedule
from benchmarks.gpu.rows import AGAIN, SCHEMA, Clock, Context, is_whole, load, play, reopened, write

ROOT = Path(__file__).parents[2]
DEVICES = ("cuda", "mps", "xpu", "cpu")
_LOOK = 0.2  # seconds between two looks at a part's process


def main(arguments: Sequence[str]) -> int:
    """Run all parts; return 0, or 1 where a task failed."""
    options = _options(arguments)
    if options.play:
        return _serve(options)
    return _conduct(options, arguments)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=540.0, help="time for everything; default: 540")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the files; default: runs/gpu")
    parser.add_argument("--resume", action="store_true", help="leave out what the files hold already")
    parser.add_argument("--device", choices=DEVICES, help="default: the accelerator that torch sees, else cpu")
    parser.add_argument("--parts", help=f"comma-separated, of {', '.join(p.name for p in PARTS)}; default: all")
    parser.add_argument("--data-root", type=Path, help="folder with cifar-10-batches-py: accuracy on CIFAR-10 too")
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--preload", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    present = available()
    options.device = options.device or present[0]
    if options.device not in present:
        parser.error(f"--device {options.device}: this torch sees none. It sees: {', '.join(present)}.")
    if not options.seconds > 0:
        parser.error(f"--seconds {options.seconds}: must be > 0.")
    known = {p.name: p for p in PARTS}
    names = options.parts.split(",") if options.parts else list(known)
    for name in names:
        if name not in known:
            parser.error(f"--parts {name}: not one of {', '.join(known)}.")
    options.parts = [p for p in PARTS if p.name in names]
    if options.data_root is not None and not options.data_root.is_dir():
        parser.error(f"--data-root {options.data_root}: no such folder.")
    return options


def available() -> list[str]:
    """Return the kinds of device that this torch can use, the fastest first; the CPU is always the last."""
    kinds = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": getattr(torch, "xpu", None)}
    return [name for name, part in kinds.items() if part is not None and part.is_available()] + ["cpu"]


# -- the process that watches -----------------------------------------------------------------------------------------


def _conduct(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    end = time.time() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    shown = " ".join(a for a in arguments if a != "--resume")
    common = {
        "table": "gpu",
        "schema": SCHEMA,
        "device": options.device,
        "small": options.device != "cuda",
        "command": f"python -m benchmarks gpu {shown}".strip(),
        "date": time.strftime("%Y-%m-%d"),
        "environment": describe(),
        "complete": False,
        "current": None,
    }
    headers = {p.name: {**common, "part": p.name, "text": p.text, "state": "begun"} for p in options.parts}
    left = [p for p in options.parts if not (options.resume and is_whole(load(_file(options, p)), headers[p.name]))]
    for part in [p for p in options.parts if p not in left]:
        print(f"{part.name}: whole already", flush=True)
    with contextlib.closing(Worker(options)) as worker:
        while left:
            part = left[0]
            kept = load(_file(options, part)) if options.resume else None
            write(reopened(kept, headers[part.name]), _file(options, part))
            worker.ready(end - RESERVE)
            slots = schedule(left, end - time.time(), worker.starts(len(left) - 1), worker.took)
            if not slots:
                _end(options, part, "no time left")
            else:
                print(f"{part.name}: {slots[0].seconds:.0f} s of {end - time.time():.0f} s", flush=True)
                _run(options, worker, part, time.time() + slots[0].seconds)
            left.pop(0)
    results = [found for p in options.parts if (found := load(_file(options, p))) is not None]
    text = report.summary(results)
    (options.out / "summary.md").write_text(text)
    names = ", ".join(f"{p.name}.json" for p in options.parts)
    print(f"\n{text}\nwritten: {names} and summary.md in {options.out}", flush=True)
    return int(any(row["status"] in ("failed", "stopped") for found in results for row in found["rows"]))


def _file(options: argparse.Namespace, part: Part) -> Path:
    path: Path = options.out / f"{part.name}.json"
    return path


def _run(options: argparse.Namespace, worker: Worker, part: Part, until: float) -> None:
    """Play a part until it is done or its time is over; what takes its process with it is a row."""
    while True:
        ended, why = worker.play(part, until)
        path = _file(options, part)
        result = load(path)
        assert result is not None  # written before the part began
        if ended == 0:
            return
        current, result["current"] = result.get("current"), None
        if ended != AGAIN:
            row = {"task": current["task"] if current else "start", "status": "stopped" if ended is None else "failed"}
            result["rows"].append({**row, "reason": why, "measured": []})
        write(result, path)
        over = until - time.time() < worker.took
        if over or (current is None and ended != AGAIN):
            return _end(options, part, "its time was over" if over else why)


def _end(options: argparse.Namespace, part: Part, state: str) -> None:
    """Note that a part was not finished; tasks without a row are done by ``--resume``."""
    path = _file(options, part)
    result = load(path)
    if result is not None:
        result.update(state=state, complete=False, current=None)
        write(result, path)


class Worker:
    """The process in which parts are played, started again where it had to be killed or ended.

    On CUDA each part gets a process of its own, which leaves nothing behind on the device; elsewhere one process plays all,
    since it takes longer to start than a small part has.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.took = START

    def starts(self, parts: int) -> int:
        """How many processes so many further parts will need."""
        return parts if self._options.device == "cuda" else 0

    def ready(self, until: float) -> bool:
        """Start a process if there is none, and wait until it has imported everything; whether it has."""
        if self._process is not None:
            return True
        self._sign.unlink(missing_ok=True)
        began = time.time()
        self._process = self._started()
        while self._process.poll() is None and time.time() < until:
            time.sleep(_LOOK)
            if self._sign.exists():
                self.took = time.time() - began
                return True
        return False

    def play(self, part: Part, until: float) -> tuple[int | None, str]:
        """Play a part; return 0, the exit code of its process, or None where it was killed; and what happened."""
        path = _file(self._options, part)
        ready = self.ready(until)
        process = self._process
        assert process is not None
        assert process.stdin is not None
        if not ready and process.poll() is None:
            self._kill()
            return None, "its process did not start in time and was killed"
        try:
            with contextlib.suppress(BrokenPipeError):  # its exit code says why
                process.stdin.write(f"{part.name} {part.module or f'benchmarks.gpu.{part.name}'} {until!r}\n")
                process.stdin.flush()
            while process.poll() is None:
                time.sleep(_LOOK)
                found, now = load(path) or {}, time.time()
                if found.get("state") == "done":
                    if self._options.device == "cuda":
                        self.close()
                    return 0, ""
                current = found.get("current")
                if now > until + KILL or (current and now > current["until"]):
                    self._kill()
                    late = now > until + KILL
                    return None, f"it {'did not end in time' if late else 'took longer than its limit'} and was killed"
        except BaseException:
            self._kill()
            raise
        self._kill()  # only its input is left to be closed
        return process.returncode, f"the process ended with {process.returncode}: {_last_line(self._log)}"

    def close(self) -> None:
        """Let the process end."""
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=KILL / 2)
            self._kill()
        self._sign.unlink(missing_ok=True)

    @property
    def _sign(self) -> Path:
        """The file by which a process says that it is ready."""
        path: Path = self._options.out / "suite.ready"
        return path

    @property
    def _log(self) -> Path:
        path: Path = self._options.out / "suite.log"
        return path

    def _started(self) -> subprocess.Popen[str]:
        options = self._options
        command = [sys.executable, "-m", "benchmarks", "gpu", "--play"]
        command += ["--device", options.device, "--out", str(options.out.resolve())]
        command += ["--preload", ",".join(part.name for part in getattr(options, "parts", ()))]
        if options.data_root is not None:
            command += ["--data-root", str(options.data_root.resolve())]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
        environment.pop("LIGHTNING_TRICKS", None)
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it matrix products are not reproducible
        with self._log.open("ab") as file:
            return subprocess.Popen(
                command, cwd=options.out, env=environment, stdin=subprocess.PIPE, stdout=file, stderr=file,
                start_new_session=True, text=True,
            )  # fmt: skip

    def _kill(self) -> None:
        """Kill the process with all that it started: it leads a session of its own."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (AttributeError, ProcessLookupError, PermissionError):
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # in a call of the driver it ends when that lets it
                process.wait(timeout=KILL)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


# -- the process that plays -------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    """Play one part for each line of the input, ``name module deadline``, until the input ends."""
    context = Context(torch.device(options.device), options.out, options.data_root)
    for name in filter(None, options.preload.split(",")):
        importlib.import_module(f"benchmarks.gpu.{name}")
    (options.out / "suite.ready").touch()
    for line in sys.stdin:
        name, module, until = line.split()
        path = options.out / f"{name}.json"
        result: dict[str, Any] = load(path) or {}
        tasks = importlib.import_module(module).tasks(context)
        if code := play(tasks, result, path, Clock(float(until))):
            return code
    return 0
