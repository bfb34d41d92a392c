"""Ray Train: the same module and callbacks on two workers; one is killed in mid-run, and the run goes on where it was.

    pip install 'lightning-tricks[ray]'
    python examples/ray_train.py [--epochs 3] [--kill-at 40]

Ray restarts both workers (``FailureConfig``). The folder of checkpoints is the run's own, on a disk that all workers
see; ``DurableCheckpointIO`` keeps the newest one whole, and ``ExactResume`` makes the run the same run. It is compared
with an undisturbed one, and the digests of the weights are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import ray
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment
from ray.train.torch import TorchTrainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_tricks as lt


class Digits(L.LightningModule):
    """A small classifier with dropout, so that random numbers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, target = batch
        return nn.functional.cross_entropy(self.net(inputs), target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class KillOnce(L.Callback):
    """Kill the process of rank 1 after a batch, as a machine that fails does."""

    def __init__(self, folder: Path, batch: int) -> None:
        self.note, self.batch = folder / "killed", batch

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step >= self.batch > 0 and trainer.global_rank == 1 and not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def train(config: dict[str, Any]) -> None:
    """What each worker does, also when it is started again."""
    folder = Path(config["folder"])
    last = folder / "last.ckpt"
    L.seed_everything(3, verbose=False)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(320, 64, generator=generator), torch.randint(10, (320,), generator=generator))
    module = Digits()
    trainer = L.Trainer(
        accelerator="cpu", devices="auto", strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment(), lt.DurableCheckpointIO()],
        callbacks=[
            lt.GradientMonitor(), lt.GradientClip(1.0), lt.LRSchedule("cosine", warmup="10%"), lt.TrainingDoctor(),
            lt.ExactResume(), KillOnce(folder, config["kill_at"]),
            ModelCheckpoint(folder, "last", every_n_train_steps=10, enable_version_counter=False),
        ],
        max_epochs=config["epochs"], logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, 8, shuffle=True), ckpt_path=last if last.exists() else None)
    if trainer.is_global_zero:
        flat = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        digest = hashlib.sha256(flat.numpy().tobytes()).hexdigest()
        (folder / "digest.txt").write_text(f"{digest[:16]} after {trainer.global_step} updates")


def run(folder: Path, epochs: int, kill_at: int) -> str:
    """Train on two workers of Ray; return the digest of the weights."""
    folder.mkdir(parents=True)
    TorchTrainer(
        train,
        train_loop_config={"folder": str(folder), "epochs": epochs, "kill_at": kill_at},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=2)),
    ).fit()
    return (folder / "digest.txt").read_text()


def main() -> None:
    """Train undisturbed and with a worker that is killed."""
    parser = argparse.ArgumentParser(description="Ray Train with a worker that is killed")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--kill-at", type=int, default=35, help="updates after which a worker is killed")
    arguments = parser.parse_args()
    # workers import this file's functions by value; the package has to be importable for them
    path = os.pathsep.join(found for found in sys.path if found)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    with tempfile.TemporaryDirectory() as name:
        whole = run(Path(name) / "whole", arguments.epochs, 0)
        killed = run(Path(name) / "killed", arguments.epochs, arguments.kill_at)
        was_killed = (Path(name) / "killed" / "killed").exists()
    ray.shutdown()
    print(f"undisturbed:         {whole}")
    print(f"with a killed worker: {killed}{'' if was_killed else ' (nobody was killed)'}")
    print("the same weights, bit for bit" if whole == killed else "the weights differ")


if __name__ == "__main__":
    main()
