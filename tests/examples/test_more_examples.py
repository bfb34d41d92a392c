from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.examples.problems import ROOT, run
from tests.forked import run_torchrun

pytestmark = pytest.mark.examples


def test_one_cycle_bears_a_peak_rate_that_steps_do_not(tmp_path: Path) -> None:
    printed = run("image_classification", tmp_path, "--lr", "1.0", "--seeds", "2", "--epochs", "3")
    steps, cycle = (float(x) for x in re.findall(r"([\d.]+)% ±", printed))
    assert 10 < steps < cycle - 5
    assert cycle > 75
    assert (tmp_path / "runs" / "image_classification.png").stat().st_size > 10_000


def test_a_byte_transformer_learns_and_writes(tmp_path: Path) -> None:
    printed = run("byte_language_model", tmp_path, "--updates", "20")
    found = re.search(r"([\d.]+) bits per byte on unseen modules; a table of pairs of bytes: ([\d.]+)", printed)
    assert found is not None, printed
    assert 3.0 < float(found[2]) < 4.0
    assert float(found[2]) < float(found[1]) < 5.0  # 8 without training; 20 updates are too few to beat the table
    assert re.search(r"clipped [1-9]\d*% of the updates; it writes:\ndef ", printed), printed
    assert (tmp_path / "runs" / "byte_language_model.png").stat().st_size > 10_000


def test_micro_batches_of_different_lengths_are_the_large_batch_only_with_their_weights(tmp_path: Path) -> None:
    printed = run("lstm_accumulation", tmp_path, "--epochs", "1", "--names", "2000")
    large, ours, lightning = (float(x) for x in re.findall(r"at most (\S+) from the large batch", printed))
    assert large == 0
    assert ours < 1e-5
    assert lightning > 1e-2
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[0] == losses[1] < 3.0  # ln 28 = 3.33 without training
    assert (tmp_path / "runs" / "lstm_accumulation.png").stat().st_size > 10_000


def test_with_two_images_of_each_digit_a_backbone_that_knows_others_is_worth_a_lot(tmp_path: Path) -> None:
    printed = run("finetuning", tmp_path, "--shots", "2", "--seeds", "1", "--epochs", "12")
    accuracies = [float(x) for x in re.findall(r": ([\d.]+)%", printed)]
    known, scratch, frozen, tuned = accuracies
    assert known > 90
    assert frozen > scratch + 10
    assert tuned > scratch + 10
    assert tuned != frozen
    assert (tmp_path / "runs" / "finetuning.png").stat().st_size > 10_000


def test_two_processes_with_uneven_shares_have_the_norms_of_one(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ("examples/distributed.py", "--epochs", "1")
    done = run_torchrun(*command, folder=tmp_path, environment=environment, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("processes: 2") == 2, "one process alone prints"
    ours, lightning = (float(x) for x in re.findall(r"at most (\S+) off", done.stdout))
    assert ours < 1e-5
    assert lightning > 1e-2
    assert (tmp_path / "runs" / "distributed.png").stat().st_size > 10_000


def weights_and_restarts(printed: str) -> tuple[str, str]:
    found = re.search(r"weights (\w+), restarts: (\d)", printed)
    assert found is not None, printed
    return found[1], found[2]


def test_an_elastic_training_that_goes_on_after_its_end_has_the_same_weights(tmp_path: Path) -> None:
    # one process, undisturbed; processes that are killed are in tests/resume/test_elastic.py
    first = weights_and_restarts(run("elastic", tmp_path, "--epochs", "1"))
    assert first[1] == "0"
    assert (tmp_path / "runs" / "elastic" / "whole" / "elastic.png").stat().st_size > 10_000
    shutil.rmtree(tmp_path / "examples")
    assert weights_and_restarts(run("elastic", tmp_path, "--epochs", "1")) == first


@pytest.mark.slow  # starts torchrun, and its process twice
@pytest.mark.timeout(400)
@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_a_killed_training_ends_with_the_weights_of_the_undisturbed_one(tmp_path: Path) -> None:
    whole = weights_and_restarts(run("elastic", tmp_path, "--epochs", "2"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    arguments = ["--name", "killed", "--kill-at", "57", "--epochs", "2"]
    done = subprocess.run(
        [*command, "--max-restarts", "1", "examples/elastic.py", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (whole[1], *weights_and_restarts(done.stdout)) == ("0", whole[0], "1")
    assert (tmp_path / "runs" / "elastic" / "killed" / "elastic.png").stat().st_size > 10_000


def test_a_study_goes_on_and_keeps_why_a_trial_ended(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(study_name="random", storage=storage, direction="maximize")
    ranges = {
        "lr": optuna.distributions.FloatDistribution(0.003, 30.0, log=True),
        "clip": optuna.distributions.FloatDistribution(0.1, 1000.0, log=True),
        "width": optuna.distributions.IntDistribution(16, 128, log=True),
    }
    first, second, third = ({"lr": lr, "clip": 1000.0, "width": 64} for lr in (0.1, 30.0, 0.3))
    study.add_trial(optuna.trial.create_trial(params=first, distributions=ranges, value=0.5))
    study.enqueue_trial(second)
    study.enqueue_trial(third)
    where = str(tmp_path / "study.db")
    printed = run("hyperparameter_search", tmp_path, "--sampler", "random", "--trials", "3", "--storage", where)
    assert "3 trials, 1 of them from before" in printed
    assert "complete: 2" in printed
    assert "learning rate too high: 1" in printed
    before, diverged, good = optuna.load_study(study_name="random", storage=storage).trials
    assert before.value == 0.5
    assert (diverged.state, diverged.user_attrs) == (TrialState.PRUNED, {"cause": "learning rate too high"})
    assert good.state == TrialState.COMPLETE
    assert good.value is not None and good.value > 0.85
    assert f"{good.value:.1%}" in printed
    assert (tmp_path / "runs" / "hyperparameter_search.png").stat().st_size > 10_000
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage", ["study.db", "study.journal"])
def test_two_processes_share_a_study_and_end_with_it(storage: str, tmp_path: Path) -> None:
    where = tmp_path / storage
    url = f"sqlite:///{where}"
    shared = JournalStorage(JournalFileBackend(str(where))) if storage.endswith("journal") else url
    optuna.create_study(storage=shared, study_name="random", direction="maximize")

    def work(worker: int) -> str:
        more = ("--sampler", "random", "--trials", "6", "--storage", str(where), "--worker", str(worker))
        return run("hyperparameter_search", tmp_path / str(worker), *more, timeout=300)

    with ThreadPoolExecutor(2) as pool:
        printed = list(pool.map(work, range(2)))
    trials = optuna.load_study(study_name="random", storage=shared).trials
    done = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert 6 <= len(done) <= 7, "the two may finish their last ones at once"
    assert [t.number for t in trials] == list(range(len(trials)))
    assert len({t.params["lr"] for t in trials}) == len(trials), "each process draws numbers of its own"
    assert all(re.search(r"\d trials, \d of them from before", text) for text in printed)
