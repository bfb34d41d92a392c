from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.distributed import cnn_script
from tests.forked import run_torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_a_run_that_torchrun_starts_is_that_of_one_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = "tests.distributed.cnn_script"
    done = run_torchrun(script, str(tmp_path), folder=tmp_path, environment=environment, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = cnn_script.train(1, 0)
    assert torch.equal(one["weights"], two["weights"])
    torch.testing.assert_close(one["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
    assert len(one["rows"]) == len(alone["rows"]) >= cnn_script.UPDATES
    assert [step for step, _ in one["rows"]] == [step for step, _ in alone["rows"]]
    keys = {key for _, row in one["rows"] for key in row}
    assert {"grad/norm", "schedule/lr", "diagnosis/training_doctor/loss"} <= keys
