"""Train on processes that may be killed at any moment: torchrun starts them again, and the weights are the same bits.

What you have: nothing but this checkout. Run:
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 .venv/bin/python -m torch.distributed.run --standalone --nproc_per_node 2 \\
    --max-restarts 3 examples/elastic.py
What you get: the accuracy, a digest of the weights, the number of restarts, runs/elastic/whole/elastic.png. Then add
--name killed --kill-at 57 --kill-rank 1: one process ends itself as kill -9 would, and the digest is the same.
Without the variable, restarted processes may wait for those that are gone (torch 2.13, pytorch#135712).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import logging
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import DurableCheckpointIO, ExactResume, GradientClip, LRSchedule, ResumeGuard

RUNS = Path(__file__).parent.parent / "runs" / "elastic"
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torch.distributed.run sets them
TRAINED = 1500  # images; the other 297 are for the accuracy


class Net(L.LightningModule):
    """Two layers with dropout, of other units on each process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.3), nn.Linear(96, 10))
        torch.manual_seed(RANK)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)

    def digest(self) -> str:
        """Equal only where all bits of all weights are equal."""
        return hashlib.sha256(b"".join(x.cpu().numpy().tobytes() for x in self.state_dict().values())).hexdigest()[:16]


class Kill(L.Callback):
    """Ends this process as ``kill -9`` does; once, since it leaves a file that says so."""

    def __init__(self, update: int, done: Path) -> None:
        self.update, self.done = update, done

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.update and not self.done.exists():
            self.done.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def draw(folder: Path) -> Path:
    """Draw the loss of each start: what was trained again after a restart lies on what was trained before it."""
    loss = (figure := Figure(figsize=(5.4, 3.4), layout="constrained")).subplots()
    starts = sorted((folder / "starts").glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    for number, path in enumerate(starts, start=1):
        found = [(int(row["step"]) + 1, float(row["loss"])) for row in csv.DictReader(path.open()) if row.get("loss")]
        loss.plot(*zip(*found, strict=True), linewidth=1 + 3 / number, alpha=0.6, label=f"start {number}")
    loss.set(title="training loss of the first process", xlabel="update", ylabel="loss", yscale="log")
    loss.legend()
    figure.savefig(folder / "elastic.png", dpi=180)
    return folder / "elastic.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="whole", help="a folder in runs/elastic")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--kill-at", type=int, default=0, help="the update after which a process ends itself, once")
    parser.add_argument("--kill-rank", type=int, default=0, help="which process")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*many workers|.*LeafSpec|.*not empty|.*ended before the epoch ended")
    for name in ("lightning.pytorch.utilities.rank_zero", "pytorch_lightning.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    folder = RUNS / options.name
    trainer = L.Trainer(
        accelerator="cuda" if torch.cuda.device_count() >= WORLD else "cpu", devices=WORLD, deterministic=True,
        strategy="ddp" if WORLD > 1 else "auto", max_epochs=options.epochs, log_every_n_steps=1,
        logger=L.loggers.CSVLogger(folder, "starts", flush_logs_every_n_steps=1), enable_progress_bar=False,
        # no kill tears a file; should a disk do it, the one before is loaded
        enable_model_summary=False, plugins=[DurableCheckpointIO(keep_previous=True)],
        callbacks=[
            GradientClip(1.0), LRSchedule("cosine", warmup="10%"), ExactResume(), ResumeGuard(mode="raise"),
            Kill(options.kill_at if options.kill_rank == RANK else 0, folder / "killed"),  # for show: leave it out
            ModelCheckpoint(folder, "last", every_n_train_steps=10, enable_version_counter=False),  # one file
        ],
    )  # fmt: skip
    images, labels = (torch.tensor(x) for x in load_digits(return_X_y=True))
    module, images = Net(), images.float() / 16
    data = DataLoader(TensorDataset(images[:TRAINED], labels[:TRAINED]), 25, shuffle=True)
    trainer.fit(module, data, ckpt_path=folder / "last.ckpt" if any(folder.glob("last.ckpt*")) else None)
    accuracy = float((module.cpu().eval().net(images[TRAINED:]).argmax(1) == labels[TRAINED:]).float().mean())
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
    print(f"process {RANK} of {WORLD}: accuracy {accuracy:.1%}, weights {module.digest()}, restarts: {restarts}")
    if RANK == 0:
        print(f"picture: {draw(folder)}")


if __name__ == "__main__":
    main()
