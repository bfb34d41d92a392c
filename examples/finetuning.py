"""Fine-tune on a few labelled images: a network that knows the digits 0 to 4 learns 5 to 9.

What you have: nothing but this checkout. Run: .venv/bin/python examples/finetuning.py
What you get: accuracies beside those from scratch and with a frozen backbone, and runs/finetuning.png.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import LRSchedule, Plateau, PredictionCollapse

RUNS = Path(__file__).parent.parent / "runs"
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Net(L.LightningModule):
    """Convolutions as backbone, which learn ten times slower or not at all, and a linear head for five digits."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracies: list[float] = []
        sizes = ((1, 16), (16, 32), (32, 32))
        blocks = [nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in sizes]
        self.backbone = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(128, 5)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        logits = self.head(self.backbone(batch[0]))
        if dataloader_idx == 0:  # the few images that decide when to stop
            self.log("val/loss", nn.functional.cross_entropy(logits, batch[1]), add_dataloader_idx=False)
        else:  # the many that judge: nothing is decided by them
            self.accuracies.append(float((logits.argmax(dim=1) == batch[1]).float().mean()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"name": name, "params": getattr(self, name).parameters()} for name in ("head", "backbone")]
        return torch.optim.AdamW(groups, lr=0.01)


def digits(low: int, shots: int, seed: int) -> list[TensorDataset]:
    """Images of five digits: so many of each to train on, as many to stop by, and the rest to judge."""
    bunch = load_digits()
    chosen = (bunch.target >= low) & (bunch.target < low + 5)
    images, labels = torch.tensor(bunch.images[chosen] / 16.0).float().unsqueeze(1), torch.tensor(bunch.target[chosen])
    train, rest = train_test_split(range(len(labels)), train_size=5 * shots, stratify=labels, random_state=seed)
    stop, judge = train_test_split(rest, train_size=5 * shots, stratify=labels[rest], random_state=seed)
    return [TensorDataset(images[part], labels[part] - low) for part in (train, stop, judge)]


def train(data: list[TensorDataset], epochs: int, seed: int, known: Net | None = None, unfreeze: int = 0) -> Net:
    L.seed_everything(seed, verbose=False)
    module, slower = Net(), {"^backbone": 0.1} if known else None
    if known is not None:
        module.backbone.load_state_dict(known.backbone.state_dict())
    # conflict: BackboneFinetuning sets rates too; the schedule's are meant.
    schedule = LRSchedule(Plateau("val/loss", patience=3), warmup="2ep", overrides=slower, conflict="replace")
    stop = L.callbacks.EarlyStopping("val/loss", patience=10)
    tricks = [L.callbacks.BackboneFinetuning(unfreeze), schedule, stop, PredictionCollapse("head")]
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, num_sanity_val_steps=0, callbacks=tricks, **QUIET)
    trainer.fit(module, DataLoader(data[0], 16, shuffle=True), [DataLoader(part, 1000) for part in data[1:]])
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 5], help="labelled images of each digit")
    parser.add_argument("--seeds", type=int, default=3, help="draws of these images")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec|.*already exist within another")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    known = train(digits(0, 80, 0), 3, 0)
    print(f"0 to 4 from scratch, 80 images of each digit: {known.accuracies[-1]:.1%}")
    final, course = (figure := Figure(figsize=(5.4, 7.2), layout="constrained")).subplots(2, 1, sharey=True)
    ways = (("from scratch", None, 0), ("frozen backbone", known, options.epochs), ("fine-tuned", known, 5))
    for way, begin, unfreeze in ways:
        means = []
        for shots in options.shots:
            draws = ((digits(5, shots, seed), options.epochs, seed) for seed in range(options.seeds))
            runs = [train(*draw, begin, unfreeze).accuracies for draw in draws]
            means.append(sum(run[-1] for run in runs) / len(runs))
            print(f"5 to 9 {way}, {shots} images of each digit: {means[-1]:.1%}")
        final.plot(options.shots, means, marker="o", label=way)
        course.plot(runs[0], label=way)
    course.axvline(5, color="black", linestyle=":", label="the backbone learns too")
    final.set(title="mean of all draws", xlabel="images per digit", ylabel="accuracy on 5 to 9", xticks=options.shots)
    course.set(title=f"one draw of {shots} images per digit", xlabel="epoch")
    for ax in (final, course):
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "finetuning.png", dpi=180)
    print(f"picture: {RUNS / 'finetuning.png'}")


if __name__ == "__main__":
    main()
