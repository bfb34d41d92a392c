"""Signals of schedulers: SIGTERM, and SLURM's SIGUSR1 with its requeue. The resumed run is the same run, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.forked import run_module

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
    ended = run_module(
        "tests.resume.signalled", str(folder), *arguments, folder=folder, environment=environment, timeout=200
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    code, said = ran(folder, "SIGTERM", "0", "end")
    assert code == 0, said
    return (folder / "digest.txt").read_text()


@pytest.mark.parametrize(("where", "batch"), [("end", "15"), ("inside", "16")])
def test_a_sigterm_leaves_a_checkpoint_from_which_the_run_is_the_same(
    where: str, batch: str, undisturbed: str, tmp_path: Path
) -> None:
    """In the middle of a window of two batches, and at its end."""
    code, said = ran(tmp_path, "SIGTERM", batch, where)
    assert code == 143, said
    assert not (tmp_path / "digest.txt").exists()
    code, said = ran(tmp_path, "SIGTERM", batch, where)
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
