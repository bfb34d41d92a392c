"""Search hyperparameters with Optuna, and end a trial that diverges or collapses as soon as that is seen.

What you have: this checkout, with the extra `hpo`. Run: .venv/bin/python examples/hyperparameter_search.py
What you get: the best trials, why others ended, and runs/hyperparameter_search.png; with more --trials it goes on.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import optuna
import rich.table
import torch
from matplotlib.figure import Figure
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, journal
from optuna_integration import PyTorchLightningPruningCallback
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import AlarmError, GradientClip, LRSchedule, NonFiniteError, PredictionCollapse, TrainingDoctor

RUNS = Path(__file__).parent.parent / "runs"
GRID = {"lr": [0.01, 0.1, 1.0, 10.0], "clip": [0.1, 10.0, 1000.0], "width": [16, 128]}
SAMPLERS = {"grid": lambda seed: GridSampler(GRID, seed), "random": RandomSampler, "tpe": TPESampler, "gp": GPSampler}
PRUNERS = {"hyperband": HyperbandPruner(), "median": MedianPruner(n_warmup_steps=1), "none": NopPruner()}


class Net(L.LightningModule):
    def __init__(self, lr: float, width: int) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", (self.net(batch[0]).argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def objective(trial: optuna.Trial) -> float:
    """Train once; a trial that is beyond help is pruned, and its cause kept."""
    lr, clip = trial.suggest_float("lr", 0.003, 30.0, log=True), trial.suggest_float("clip", 0.1, 1000.0, log=True)
    width = trial.suggest_int("width", 16, 128, log=True)
    L.seed_everything(0, verbose=False)
    images, labels = map(torch.tensor, load_digits(return_X_y=True))
    data = [TensorDataset(images[part].float() / 16, labels[part]) for part in (slice(1200), slice(1200, None))]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=6, logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=RUNS / "hpo" / str(trial.number),
        callbacks=[
            LRSchedule("cosine"), GradientClip(clip, nonfinite="raise"), TrainingDoctor(every_n_steps=10, action="raise"),
            PredictionCollapse("net", every_n_steps=10, grace="20%", action="raise"),
            PyTorchLightningPruningCallback(trial, "val/accuracy"),
        ],
    )  # fmt: skip
    try:
        with redirect_stdout(None):  # (the doctor says where its reports are: in the root dir)
            trainer.fit(Net(lr, width), DataLoader(data[0], 64, shuffle=True), DataLoader(data[1], 600))
    except (AlarmError, NonFiniteError) as error:
        trial.set_user_attr("cause", error.verdict.cause if isinstance(error, AlarmError) else "gradient not finite")
        if isinstance(trial.study.sampler, GPSampler):
            return 0.0  # it learns nothing from pruned trials, and would come back to the same place
        raise optuna.TrialPruned(str(error)) from error
    return float(trainer.callback_metrics["val/accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sampler", choices=list(SAMPLERS), default="tpe")
    parser.add_argument("--pruner", choices=list(PRUNERS), default="median")
    parser.add_argument("--trials", type=int, default=30, help="of the study in all")
    parser.add_argument("--storage", type=Path, default=RUNS / "hpo.db")
    parser.add_argument("--worker", type=int, default=0, help="of several that share --storage, such as x.journal")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    RUNS.mkdir(exist_ok=True)
    to, shared = str(options.storage), options.storage.suffix == ".journal"
    where = JournalStorage(journal.JournalFileBackend(to)) if shared else f"sqlite:///{to}"
    study = optuna.create_study(storage=where, study_name=options.sampler, load_if_exists=True, direction="maximize")
    begun = sum(t.state.is_finished() for t in study.trials)  # (the same seed would repeat itself)
    study.pruner, study.sampler = PRUNERS[options.pruner], SAMPLERS[options.sampler](seed=begun + 1000 * options.worker)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    enough = optuna.study.MaxTrialsCallback(options.trials, ended)  # (trials of other processes count)
    study.optimize(objective, n_trials=max(0, options.trials - begun), callbacks=[enough])
    trials = [t for t in study.trials if t.state.is_finished()]
    table = rich.table.Table("trial", "accuracy", *GRID, title=f"{len(trials)} trials, {begun} of them from before")
    for trial in sorted(trials, key=lambda t: -(t.value or 0.0))[:5]:
        table.add_row(str(trial.number), f"{trial.value or 0.0:.1%}", *(f"{trial.params[name]:.3g}" for name in GRID))
    rich.print(table)
    causes = [t.user_attrs.get("cause", t.state.name.lower()) for t in trials]
    axes = (figure := Figure(figsize=(5.4, 10), layout="constrained")).subplots(4, 1, sharey=True)
    for cause in sorted(set(causes)):
        these = [t for t, c in zip(trials, causes, strict=True) if c == cause]
        print(f"{cause}: {len(these)}")
        for ax, name in zip(axes, ("trial", *GRID), strict=True):
            x = [t.params.get(name, t.number) for t in these]
            ax.plot(x, [t.value or 0.0 for t in these], "o" if cause == "complete" else "x", label=cause)
            ax.set(xlabel=name, xscale="log" if name in ("lr", "clip") else "linear")
    axes[0].legend(title="last validation accuracy", fontsize="small")
    figure.savefig(RUNS / "hyperparameter_search.png", dpi=180)
    print(f"picture: {RUNS / 'hyperparameter_search.png'}")


if __name__ == "__main__":
    main()
