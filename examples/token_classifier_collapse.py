"""A token classifier that learns, and then answers one class for ever: left alone, and with a rollback.

The letters of Python's standard library are labelled as name, operator, text, comment or rest. A small transformer with
normalisation after its blocks, a high rate and a batch of one sequence learns that, and collapses.

What you have: nothing but this checkout. Run: .venv/bin/python examples/token_classifier_collapse.py
What you get: what the detector says and does, macro-F1 of both runs, and runs/token_classifier_collapse.png.
"""

from __future__ import annotations

import argparse
import heapq
import io
import logging
import tokenize
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import PredictionCollapse, Rollback, TrickWarning, Verdict

RUNS = Path(__file__).parent.parent / "runs"
KINDS = {tokenize.NAME: 1, tokenize.OP: 2, tokenize.STRING: 3, tokenize.COMMENT: 4}
LENGTH = 32


def letters() -> tuple[Tensor, Tensor]:
    """Rows of letters as numbers below 128, and the kind of token that each belongs to."""
    letters, kinds = [], []
    for name in ("heapq.py", "calendar.py", "copy.py", "difflib.py"):
        source = (Path(heapq.__file__).parent / name).read_text()
        lines = source.splitlines(keepends=True)
        label = [[0] * len(line) for line in lines]
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            (row, begin), (last, end) = token.start, token.end
            for r in range(row - 1, min(last, len(lines))):
                a, b = begin if r == row - 1 else 0, end if r == last - 1 else len(lines[r])
                label[r][a:b] = [KINDS.get(token.type, 0)] * (b - a)
        letters += [min(ord(c), 127) for line in lines for c in line]
        kinds += [k for line in label for k in line]
    rows = len(letters) // LENGTH
    return tuple(torch.tensor(x[: rows * LENGTH]).reshape(rows, LENGTH) for x in (letters, kinds))  # type: ignore[return-value]


class Tagger(L.LightningModule):
    """Three blocks, normalised after each."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.embed, self.place = nn.Embedding(128, 32), nn.Parameter(0.02 * torch.randn(LENGTH, 32))
        block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.blocks, self.head = nn.TransformerEncoder(block, 3, enable_nested_tensor=False), nn.Linear(32, 5)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        logits = self.head(self.blocks(self.embed(batch[0]) + self.place))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten()), "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


@torch.no_grad()
def score(module: Tagger, data: tuple[Tensor, Tensor]) -> float:
    guess = module.eval().head(module.blocks(module.embed(data[0]) + module.place)).argmax(-1)
    return float(f1_score(data[1].flatten(), guess.flatten(), average="macro"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--lr", type=float, default=1e-2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=TrickWarning)
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    rows, kinds = letters()
    held, train = (rows[:400], kinds[:400]), TensorDataset(rows[400:], kinds[400:])
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    ax = figure.subplots()
    noted: list[Verdict] = []  # the first alarm of the run that goes on
    for title, action in (("left alone", noted.append), ("with Rollback()", Rollback())):
        L.seed_everything(2, verbose=False)
        module, detector = Tagger(options.lr), PredictionCollapse(every_n_steps=20, action=action)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(
            accelerator="cpu", max_steps=options.updates, enable_model_summary=False, callbacks=[detector], **quiet
        )
        trainer.fit(module, DataLoader(train, batch_size=1, shuffle=True))
        skill = {step: max(-0.3, values["skill"]) for step, values in detector.history}
        (line,) = ax.plot(list(skill), list(skill.values()), label=title)
        said = "no alarm"
        verdict = detector.verdict if isinstance(action, Rollback) else next(iter(noted), detector.verdict)
        if verdict.alarmed:
            said = f"ALARM at step {verdict.step}"
            ax.axvline(verdict.step, color=line.get_color(), linestyle=":", label=f"{title}: {said}")
        print(f"{title}: macro-F1 {score(module, held):.2f}; {said}: {verdict}")
    ax.set(xlabel="update", ylabel="skill (0: chance, 1: certain)", ylim=(-0.35, 1))
    ax.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "token_classifier_collapse.png", dpi=180)
    print(f"picture: {RUNS / 'token_classifier_collapse.png'}")


if __name__ == "__main__":
    main()
