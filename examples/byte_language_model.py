"""Train a small transformer on the bytes of Python's standard library, and let it write some.

What you have: nothing but this checkout. Run: .venv/bin/python examples/byte_language_model.py
What you get: bits per byte on modules that it has not seen, a sample, and runs/byte_language_model.png.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import GradientClip, GradientMonitor, LRSchedule

RUNS = Path(__file__).parent.parent / "runs"
CONTEXT, WIDTH = 64, 128


def source(held: bool) -> Tensor:
    """Rows of CONTEXT + 1 bytes from nine modules in ten, or from the tenth."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = b"".join(file.read_bytes() for i, file in enumerate(files) if (i % 10 == 0) == held)
    return torch.tensor(list(text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)])).reshape(-1, CONTEXT + 1)


class Writer(L.LightningModule):
    """Two blocks, normalised before each, predict every byte from those before it."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.embed, self.place = nn.Embedding(256, WIDTH), nn.Parameter(0.2 * torch.randn(CONTEXT, WIDTH))
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 256)
        nn.init.normal_(self.embed.weight, std=0.2)  # torch's own, 1, is too loud for the blocks

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.embed(text) + self.place[: text.shape[1]]
        past = nn.Transformer.generate_square_subsequent_mask(text.shape[1], device=text.device)
        return self.head(self.blocks(hidden, mask=past, is_causal=True))

    def step(self, batch: Any, name: str) -> Tensor:
        text = batch[0]
        loss = nn.functional.cross_entropy(self(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        self.log(name, loss / math.log(2))
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch, "train/bits")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch, "val/bits")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0.1)

    @torch.no_grad()
    def write(self, start: bytes, length: int) -> str:
        text = torch.tensor([list(start)])
        for _ in range(length):
            chances = (self(text[:, -CONTEXT:])[:, -1] / 0.7).softmax(dim=-1)  # a little colder, as is usual
            text = torch.cat([text, torch.multinomial(chances, 1)], dim=1)
        return bytes(text[0].tolist()).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--lr", type=float, default=3e-3)
    options = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec")
    L.seed_everything(0, verbose=False)
    train, held = source(held=False), source(held=True)[::25]
    pairs = torch.bincount(256 * train[:, :-1].flatten() + train[:, 1:].flatten(), minlength=65536).view(256, 256)
    chances = (pairs + 0.01) / (pairs + 0.01).sum(dim=1, keepdim=True)
    table = float(-chances[held[:, :-1], held[:, 1:]].log2().mean())
    module, clip = Writer(options.lr), GradientClip(1.0)
    logger = L.loggers.CSVLogger(RUNS, name="byte_language_model")
    trainer = L.Trainer(
        accelerator="cpu", max_steps=options.updates, val_check_interval=min(50, options.updates), logger=logger,
        log_every_n_steps=1, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[GradientMonitor(), clip, LRSchedule("cosine", warmup="5%")],
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(train), 16, shuffle=True), DataLoader(TensorDataset(held), 64))
    bits = float(trainer.callback_metrics["val/bits"])
    print(f"{bits:.2f} bits per byte on unseen modules; a table of pairs of bytes: {table:.2f}")
    print(f"clipped {clip.clipped_fraction:.0%} of the updates; it writes:\n{module.write(b'def ', 300)}")
    logged = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()))
    axes = (figure := Figure(figsize=(5.4, 7.2), layout="constrained")).subplots(3, 1, sharex=True)
    for ax, key in zip(axes[[0, 0, 1, 2]], ("train/bits", "val/bits", "schedule/lr", "grad/norm"), strict=True):
        ax.plot(*zip(*((int(row["step"]), float(row[key])) for row in logged if row[key]), strict=True), label=key)
    axes[0].axhline(table, color="black", linestyle=":", label="a table of how often a byte follows another")
    axes[2].axhline(1.0, color="tab:red", linestyle="--", label="threshold of the clip")
    axes[0].set(title="byte transformer on Python's standard library", ylabel="bits per byte", ylim=(2, 8))
    axes[1].set(ylabel="learning rate")
    axes[2].set(xlabel="update", ylabel="norm of the gradient", ylim=(0, None))
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(RUNS / "byte_language_model.png", dpi=180)
    print(f"picture: {RUNS / 'byte_language_model.png'}")


if __name__ == "__main__":
    main()
