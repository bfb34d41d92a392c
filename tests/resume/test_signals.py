"""Signals of schedulers: SIGTERM, and SLURM's SIGUSR1 with its requeue. The resumed run is the same run, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.name != "posix", reason="sends signals of POSIX"),
]
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "PL_", "GROUP_", "ROLE_", "SLURM_")


def ran(folder: Path, *arguments: str, slurm: bool = False) -> tuple[int, str]:
    """Run the script to its end; return its exit code and what it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if slurm:
        tools = folder / "tools"
        tools.mkdir(exist_ok=True)
        command = tools / "scontrol"
        command.write_text(f'#!/bin/sh\necho "$@" >> {folder}/requeued.txt\n')
        command.chmod(0o755)
        environment |= {
            "PATH": f"{tools}:{environment['PATH']}", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "17",
            "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
            "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "localhost",
        }  # fmt: skip
    command_line = [sys.executable, "-m", "tests.resume.signalled", str(folder), *arguments]
    ended = subprocess.run(
        command_line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    code, said = ran(folder, "SIGTERM", "0", "end")
    assert code == 0, said
    return (folder / "digest.txt").read_text()


@pytest.mark.parametrize("where", ["end", "inside"])
def test_a_sigterm_leaves_a_checkpoint_from_which_the_run_is_the_same(
    where: str, undisturbed: str, tmp_path: Path
) -> None:
    code, said = ran(tmp_path, "SIGTERM", "15", where)
    assert code == 143, said
    assert not (tmp_path / "digest.txt").exists()
    code, said = ran(tmp_path, "SIGTERM", "15", where)
    assert code == 0, said
    assert (tmp_path / "digest.txt").read_text() == undisturbed


def test_slurms_requeue_at_the_end_of_a_batch_is_the_same_run(undisturbed: str, tmp_path: Path) -> None:
    ran(tmp_path, "SIGUSR1", "15", "end", slurm=True)
    assert (tmp_path / "requeued.txt").read_text().strip() == "requeue 17"
    assert [path.name for path in tmp_path.glob("hpc_*")] == ["hpc_ckpt_1.ckpt"]
    (tmp_path / "digest.txt").unlink(missing_ok=True)
    code, said = ran(tmp_path, "SIGUSR1", "15", "end", slurm=True)
    assert code == 0, said
    assert (tmp_path / "digest.txt").read_text() == undisturbed


def test_a_handler_that_saves_at_the_end_of_the_batch_is_exact_wherever_the_signal_arrives(
    undisturbed: str, tmp_path: Path
) -> None:
    code, said = ran(tmp_path, "SIGUSR1", "15", "inside", "later")
    assert code == 99, said
    code, said = ran(tmp_path, "SIGUSR1", "15", "inside", "later")
    assert code == 0, said
    assert (tmp_path / "digest.txt").read_text() == undisturbed
