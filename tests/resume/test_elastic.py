"""torchrun --max-restarts: processes are killed, started again and go on; the weights are those of the whole run."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import run_torchrun

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(700),
    pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL"),
]


def surroundings() -> dict[str, str]:
    launchers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "PL_", "GROUP_", "ROLE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    # processes of a restart would read the addresses of those that are gone: pytorch#135712
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def under_forked_torchrun(folder: Path, processes: int, kills: list[dict[str, int]], plan: str) -> str:
    """Run both trainings to their end, in processes that torchrun's agent forks; return what was said."""
    done = run_torchrun(
        "tests.resume.restarts", str(folder), plan, folder=folder, environment=surroundings(), processes=processes,
        restarts=len(kills),
    )  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def under_torchrun(folder: Path, processes: int, kills: list[dict[str, int]], plan: str) -> str:
    """Run both trainings to their end, by torchrun's command; return what was said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["--max-restarts", str(len(kills)), "-m", "tests.resume.restarts", str(folder), plan]
    torchrun = subprocess.Popen(
        command, cwd=folder, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = torchrun.communicate(timeout=600)
    finally:
        if torchrun.poll() is None:
            torchrun.send_signal(signal.SIGTERM)  # it ends its processes, which have groups of their own
            try:
                torchrun.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(torchrun.pid, signal.SIGKILL)
                torchrun.communicate()
    assert torchrun.returncode == 0, said
    return said


def outcome(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / name).glob("rank*.json"))]


def check(
    folder: Path,
    kills: list[dict[str, int]],
    processes: int = 2,
    window: int = 1,
    gradients: bool = False,
    launch: Callable[..., str] = under_forked_torchrun,
) -> list[str]:
    """Compare the killed training with the undisturbed one; return what was said before each kill."""
    said = launch(folder, processes, kills, json.dumps({"kills": kills, "window": window, "gradients": gradients}))
    whole, killed = outcome(folder, "whole"), outcome(folder, "killed")
    assert len(whole) == len(killed) == processes, said
    assert len({found["digest"] for found in whole + killed}) == 1, said
    assert {found["updates"] for found in whole + killed} == {whole[0]["updates"]}
    assert {found["restarts"] for found in whole} == {0}
    assert {found["restarts"] for found in killed} == {len(kills)}, said
    notes = [folder / "killed" / f"killed{i}.txt" for i in range(len(kills))]
    expected = {"last.ckpt", "last.ckpt.previous", *(note.name for note in notes)}
    left = {path.name for path in (folder / "killed").iterdir() if path.suffix != ".json"}
    assert left == expected, "every kill happened, and no temporary file is left"
    for name in ("last.ckpt", "last.ckpt.previous"):
        torch.load(folder / "killed" / name, weights_only=True)
    return [note.read_text() for note in notes]


def test_one_of_two_processes_is_killed_in_the_middle_of_a_window(tmp_path: Path) -> None:
    (within,) = check(tmp_path, [{"rank": 1, "batch": 14}], window=2)
    assert within == "update 7"


@pytest.mark.slow  # each start of two processes takes ten seconds, most of it importing, and a kill makes it one more
def test_either_process_is_killed_before_the_first_checkpoint_in_a_window_while_one_is_written_and_at_an_update(
    tmp_path: Path,
) -> None:
    # windows of two, in epochs of 11 batches and 6 updates: an odd batch of an epoch is the middle of one
    middle, end = random.Random(0).choice(range(1, 11, 2)), random.Random(1).choice(range(2, 11, 2))
    kills = [
        {"rank": 1, "batch": 3},
        {"rank": 1, "batch": 11 + middle},
        {"checkpoint": 3},
        {"rank": 0, "batch": 22 + end},
    ]
    early, within, torn, late = check(tmp_path, kills, window=2, launch=under_torchrun)
    assert (early, within, late) == ("update 1", f"update {6 + middle // 2}", f"update {12 + end // 2}")
    written = re.fullmatch(r"(\d+) bytes", torn)
    assert written and 0 < int(written[1]) < (tmp_path / "killed" / "last.ckpt").stat().st_size


def test_one_process_goes_on_from_the_middle_of_a_window_with_its_gradients(tmp_path: Path) -> None:
    check(tmp_path, [{"rank": 0, "batch": 18}], processes=1, window=4, gradients=True)
