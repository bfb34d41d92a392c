"""Train SimSiam on handwritten digits, with and without its stop-gradient, and let a detector watch the projector.

What you have: nothing but this checkout. Run: .venv/bin/python examples/simsiam_collapse.py
What you get: what the detector says about each run, how good the embeddings are, and runs/simsiam_collapse.png.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import RepresentationCollapse

RUNS = Path(__file__).parent.parent / "runs"


def layers(*sizes: int) -> nn.Sequential:
    """Linear layers with BatchNorm and ReLU between them."""
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        parts += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(sizes[-2], sizes[-1]))


class SimSiam(L.LightningModule):
    """Two noisy views of a digit have to agree."""

    def __init__(self, stop_gradient: bool) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient
        self.projector = nn.Sequential(layers(64, 128, 128, 64), nn.BatchNorm1d(64, affine=False))
        self.predictor = layers(64, 32, 64)

    def view(self, images: Tensor) -> Tensor:
        return (images + 0.25 * torch.randn_like(images)) * (torch.rand_like(images) > 0.3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        one, two = (self.projector(self.view(batch[0])) for _ in range(2))
        targets = (one.detach(), two.detach()) if self.stop_gradient else (one, two)
        both = cosine_similarity(self.predictor(one), targets[1]) + cosine_similarity(self.predictor(two), targets[0])
        return -both.mean() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


@torch.no_grad()
def neighbours(module: SimSiam, images: Tensor, labels: Tensor) -> float:
    """How often the nearest embedding of another digit has the same label."""
    module.eval()
    z = nn.functional.normalize(module.projector(images)).numpy()
    model = KNeighborsClassifier(5).fit(z[:1200], labels[:1200])
    return float(model.score(z[1200:], labels[1200:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    bunch = load_digits()
    images, labels = torch.tensor(bunch.data / 16.0, dtype=torch.float32), torch.tensor(bunch.target)
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, stop in zip(axes, (True, False), strict=True):
        L.seed_everything(0, verbose=False)
        module, detector = SimSiam(stop), RepresentationCollapse("projector", every_n_steps=10, action="log")
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=options.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[detector],
        )
        trainer.fit(module, DataLoader(TensorDataset(images), batch_size=128, shuffle=True))
        title = "with stop-gradient" if stop else "without stop-gradient"
        print(f"{title}: 5 nearest neighbours find {neighbours(module, images, labels):.1%}")
        print(f"  {detector.verdict}")
        for name in ("sphere_variance", "embedding_std", "rank_share"):
            points = [(step, values[name]) for step, values in detector.history]
            ax.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        if detector.verdict.since_step is not None:
            ax.axvspan(detector.verdict.since_step, detector.verdict.step, color="tab:red", alpha=0.2)
            ax.axvline(detector.verdict.step, color="tab:red", label=f"alarm: {detector.verdict.cause}")
        ax.set(title=title, xlabel="step", ylim=(0, 1.05))
        ax.grid(alpha=0.3)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "simsiam_collapse.png", dpi=180)
    print(f"picture: {RUNS / 'simsiam_collapse.png'}")


if __name__ == "__main__":
    main()
