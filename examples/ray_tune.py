"""Ray Tune: ASHA searches a learning rate; trials that a detector ended are reported with their cause.

    pip install 'lightning-tricks[ray]'
    python examples/ray_tune.py [--trials 6]

A trial whose loss diverges is ended by ``TrainingDoctor(action="stop")`` after a few updates, where ASHA waits for the
next rung and knows no reason.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import Any

import lightning.pytorch as L
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_tricks as lt


class Digits(L.LightningModule):
    """A classifier of 8 x 8 pictures."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, target = batch
        return nn.functional.cross_entropy(self.net(inputs), target)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, target = batch
        self.log("accuracy", (self.net(inputs).argmax(1) == target).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Report(L.Callback):
    """Report the accuracy of an epoch to Tune, and why a detector ended the trial."""

    def __init__(self, doctor: lt.TrainingDoctor) -> None:
        self.doctor, self.accuracy = doctor, 0.0

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.accuracy = float(trainer.callback_metrics["accuracy"])
            tune.report({"accuracy": self.accuracy, "ended_by": ""})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        verdict = self.doctor.verdict
        if verdict.alarmed:
            cause = getattr(verdict.cause, "value", str(verdict.cause))
            tune.report(
                {"accuracy": self.accuracy, "ended_by": f"TrainingDoctor at step {verdict.since_step}: {cause}"}
            )


def trial(config: dict[str, Any]) -> None:
    """Train once."""
    L.seed_everything(0, verbose=False)
    pictures, target = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pictures, dtype=torch.float32) / 16, torch.tensor(target))
    train, validation = torch.utils.data.random_split(data, [1500, 297], torch.Generator().manual_seed(0))
    doctor = lt.TrainingDoctor(every_n_steps=5, action="stop")
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=config["epochs"], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[doctor, Report(doctor)],
    )  # fmt: skip
    trainer.fit(Digits(config["lr"]), DataLoader(train, 32, shuffle=True), DataLoader(validation, 297))


def main() -> None:
    """Search, then print each trial with what ended it."""
    parser = argparse.ArgumentParser(description="Ray Tune with ASHA and a detector")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    path = os.pathsep.join(found for found in sys.path if found)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    rates = [10.0 ** (2 - i) for i in range(arguments.trials)]
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            trial,
            param_space={"lr": tune.grid_search(rates), "epochs": arguments.epochs},
            tune_config=tune.TuneConfig(
                metric="accuracy", mode="max", scheduler=ASHAScheduler(max_t=arguments.epochs, grace_period=1)
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        for rate, result in zip(rates, results, strict=True):
            metrics = result.metrics or {}
            ended = metrics.get("ended_by") or ("ASHA or the last epoch" if result.error is None else "an error")
            print(f"lr {rate:g}: accuracy {metrics.get('accuracy', 0.0):.3f}; ended by {ended}")
        print(f"best: lr {results.get_best_result().config['lr']:g}")
    ray.shutdown()


if __name__ == "__main__":
    main()
