"""Train an LSTM on names of different lengths in micro-batches, as if the large batch fitted into memory.

It learns to spell the names in Python's standard library. As is usual, names of like length are put together, so the four
micro-batches of a window hold different numbers of letters; the loss is the mean over letters.

What you have: nothing but this checkout. Run: .venv/bin/python examples/lstm_accumulation.py
What you get: how far two ways of accumulation are from the large batch, and runs/lstm_accumulation.png.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lightning_tricks import GradientAccumulation, GradientClip

RUNS = Path(__file__).parent.parent / "runs"
ALPHABET = "\nabcdefghijklmnopqrstuvwxyz_"  # a name ends in a new line
WINDOW = 64


def names(count: int) -> list[str]:
    """Names in the standard library, shuffled, and sorted by length within each window."""
    text = "".join(path.read_text() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))
    found = sorted(set(re.findall(r"\b[a-z_]{3,}\b", text)))
    found = random.Random(0).sample(found, count)
    return [name for i in range(0, count, WINDOW) for name in sorted(found[i : i + WINDOW], key=len)]


def collate(names: list[str]) -> tuple[Tensor, Tensor]:
    """Letters, and the letters that follow them; -100 where a name is over."""
    rows = [torch.tensor([ALPHABET.index(letter) for letter in f"\n{name}\n"]) for name in names]
    letters = pad_sequence([row[:-1] for row in rows], batch_first=True)
    return letters, pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-100)


class Speller(L.LightningModule):
    """Predicts the next letter; keeps the loss on unseen names after each update."""

    def __init__(self, unseen: list[str], lr: float) -> None:
        super().__init__()
        self.lr, self.unseen, self.losses = lr, collate(unseen), [0.0]
        self.embed, self.lstm = nn.Embedding(len(ALPHABET), 32), nn.LSTM(32, 96, batch_first=True)
        self.head = nn.Linear(96, len(ALPHABET))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.head(self.lstm(self.embed(batch[0]))[0])
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == len(self.losses):
            self.losses.append(float(self.training_step(self.unseen, 0)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def train(names: list[str], batch_size: int, options: Any, tricks: list[Any], **arguments: Any) -> Speller:
    L.seed_everything(0, verbose=False)
    module = Speller(names[-512:], options.lr)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=options.epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[GradientClip(1.0), *tricks], **arguments,
    )  # fmt: skip
    trainer.fit(module, DataLoader(names[:-512], batch_size, collate_fn=collate))
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--names", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=1.0)
    options = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec")
    data = names(options.names)
    ways = {
        f"batches of {WINDOW}": train(data, WINDOW, options, []),
        "GradientAccumulation(4, weight='tokens')": train(
            data, WINDOW // 4, options, [GradientAccumulation(4, weight="tokens")]
        ),
        "Trainer(accumulate_grad_batches=4)": train(data, WINDOW // 4, options, [], accumulate_grad_batches=4),
    }
    large = next(iter(ways.values()))
    curves, differences = (figure := Figure(figsize=(5.4, 7.2), layout="constrained")).subplots(2, 1)
    for (name, module), style in zip(ways.items(), ("-", "--", "-"), strict=True):
        apart = [abs(a - b) for a, b in zip(module.losses, large.losses, strict=True)][1:]
        print(f"{name}: loss {module.losses[-1]:.4f} on unseen names, at most {max(apart):.1e} from the large batch")
        width = 5 if module is large else 1.5
        curves.plot(module.losses[1:], style, label=name, linewidth=width, alpha=0.4 if module is large else 1)
        if module is not large:
            differences.plot([max(x, 1e-8) for x in apart], style, label=name, color=curves.lines[-1].get_color())
    curves.set(title="three ways to an update of 64 names", xlabel="update", ylabel="loss per letter of unseen names")
    differences.set(title="distance to the large batch", xlabel="update", ylabel="difference of the loss", yscale="log")
    for ax in (curves, differences):
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "lstm_accumulation.png", dpi=180)
    print(f"picture: {RUNS / 'lstm_accumulation.png'}")


if __name__ == "__main__":
    main()
