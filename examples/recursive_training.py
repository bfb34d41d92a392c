"""Train a language model on its own text, generation after generation: with the real text kept in the mix, and without.

What you have: nothing but this checkout. Run: .venv/bin/python examples/recursive_training.py
What you get: diversity and the loss on real text by generation, a line of the last text, and runs/recursive_training.png.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tricks import GenerationDrift, MixedGenerations

RUNS = Path(__file__).parent.parent / "runs"
ALPHABET = "abcdefghijklmnopqrstuvwxyz ._(),"
LENGTH, TEXTS, BATCH = 64, 256, 16


def real_text() -> Tensor:
    """Python's difflib as rows of letters."""
    source = Path(difflib.__file__).read_text().lower()
    words = "".join(c if c in ALPHABET else " " for c in source).split()
    letters = torch.tensor([ALPHABET.index(c) for c in " ".join(words)])
    return letters[: TEXTS * LENGTH].reshape(TEXTS, LENGTH)


class Writer(L.LightningModule):
    """Predicts a letter from the three before it; one epoch is one generation, begun with fresh weights."""

    def __init__(self, mode: str, updates: int) -> None:
        super().__init__()
        self.mode, self.updates, self.real = mode, updates, real_text()
        self.net = nn.Sequential(nn.Embedding(32, 16), nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 32))
        self.fresh = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.written: list[Tensor] = []

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        start = self.real[torch.randint(len(self.real), (count,)), :3]
        letters = list(start.unbind(1))
        for _ in range(LENGTH - 3):
            logits = self.net(torch.stack(letters[-3:], 1)) / 0.9  # a little colder, as is usual
            letters.append(torch.distributions.Categorical(logits=logits).sample())
        return torch.stack(letters, 1)

    def train_dataloader(self) -> Any:
        data: Any = self.real
        if self.current_epoch > 0:
            self.written.append(self.sample(TEXTS))
            data = MixedGenerations(real=self.real, generated=self.written[-1], mode=self.mode)  # half and half
            self.net.load_state_dict(self.fresh)
        chosen = torch.utils.data.RandomSampler(data, replacement=True, num_samples=BATCH * self.updates)
        return DataLoader(data, batch_size=BATCH, sampler=chosen)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        windows = batch.unfold(1, 4, 1).reshape(-1, 4)
        return nn.functional.cross_entropy(self.net(windows[:, :3]), windows[:, 3])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=12)
    parser.add_argument("--updates", type=int, default=60)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for mode in ("replace", "fraction"):
        L.seed_everything(0, verbose=False)
        module, detector = Writer(mode, options.updates), GenerationDrift(num_samples=128, action="log")
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=options.generations,
            reload_dataloaders_every_n_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[detector],
        )
        trainer.fit(module)
        line = "".join(ALPHABET[i] for i in module.sample(1)[0].tolist())
        print(f"{mode}: {detector.verdict}\n  writes: {line}")
        for ax, name in zip(axes, ("distinct_ratio", "real_loss"), strict=True):
            values = [v[name] for _, v in detector.history]
            ax.plot(range(len(values)), values, marker="o", markersize=3, label=mode)
            if detector.verdict.alarmed:
                at = [step for step, _ in detector.history].index(detector.verdict.step)
                ax.axvline(at, color="tab:red", linestyle=":", label="alarm")
    axes[0].set(title="distinct 4-grams / real", xlabel="generation", ylim=(0, None))
    axes[1].set(title="loss on real text", xlabel="generation")
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "recursive_training.png", dpi=180)
    print(f"picture: {RUNS / 'recursive_training.png'}")


if __name__ == "__main__":
    main()
