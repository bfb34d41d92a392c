"""Does a precision train as well? Paired seeds on real data, an equivalence test, and time to a wanted accuracy."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.ceilings import synchronize
from benchmarks.cells import pack, quiet_trainer
from benchmarks.measure import equivalence, median_interval
from benchmarks.models.cifar import cifar10
from benchmarks.models.resnet import Block, resnet
from benchmarks.models.small_tasks import digits_cnn
from benchmarks.models.transformer import ByteTransformer, source_bytes, windows
from benchmarks.settings import Setting

MARGIN = 0.5
BITS_MARGIN = 1.0
WANTED = 98.0


class Classifier(L.LightningModule):
    """Trains under AdamW with a cosine-free constant rate; counts the seconds of training alone."""

    def __init__(self, net: nn.Module, test: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.net, self._test = net, test
        self.accuracies: list[float] = []
        self.seconds: list[float] = []
        self._began = 0.0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def on_train_epoch_start(self) -> None:
        synchronize(self.device)
        self._began = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self._began)
        self.accuracies.append(self.judged())

    @torch.no_grad()
    def judged(self) -> float:
        """Accuracy in percent, in the precision that the run trains in."""
        self.net.eval()
        with self.trainer.precision_plugin.val_step_context():
            inputs, target = (t.to(self.device) for t in self._test)
            inputs = self.trainer.precision_plugin.convert_input(inputs)
            right = sum(
                int((self.net(x).argmax(1) == y).sum())
                for x, y in zip(inputs.split(1000), target.split(1000), strict=True)
            )
        self.net.train()
        return 100.0 * right / len(target)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def _paired(
    name: str, precisions: Sequence[str], seeds: int, tick: Callable[[str], None]
) -> Iterator[tuple[int, Setting]]:
    """Yield every precision for every seed, in shuffled order, with torch seeded anew for each."""
    order = random.Random(0)
    for seed in range(seeds):
        for precision in order.sample(list(precisions), len(precisions)):
            tick(f"{name} {precision}, seed {seed}")
            torch.manual_seed(seed)
            yield seed, Setting(precision)


def digits() -> tuple[Callable[[], nn.Module], TensorDataset, tuple[Tensor, Tensor], int]:
    """scikit-learn's digits: a small CNN with BatchNorm, 1,397 images to train on and 400 to judge by."""
    task = digits_cnn()

    def net() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, 2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(1024, 10)),
        )

    return net, task.train, task.judge.tensors, 64  # type: ignore[return-value]


def cifar(root: Path) -> tuple[Callable[[], nn.Module], TensorDataset, tuple[Tensor, Tensor], int]:
    """CIFAR-10 from a folder: ResNet-18."""
    test = cifar10(root, "test").tensors
    return lambda: resnet(Block, (2, 2, 2, 2), 64, 10, large=False), cifar10(root), test, 512  # type: ignore[return-value]


def measure(
    name: str,
    data: tuple[Callable[[], nn.Module], TensorDataset, tuple[Tensor, Tensor], int],
    precisions: Sequence[str],
    device: torch.device,
    seeds: int,
    epochs: int,
    tick: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train every precision on every seed, in shuffled order; return raw values and verdicts against the first one.

    Within a seed all precisions begin with the same weights and see the same batches.
    """
    net, train, test, batch = data
    rows: dict[str, dict[str, list[Any]]] = {p: {"accuracy": [], "curve": [], "seconds": []} for p in precisions}
    for seed, setting in _paired(name, precisions, seeds, tick):
        module = Classifier(net(), test)
        loader = DataLoader(train, batch, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed))
        with setting.flags():
            t = quiet_trainer(setting, device, pack(), max_epochs=epochs)
            t.fit(module, loader)
        row = rows[setting.precision]
        row["accuracy"].append(module.accuracies[-1])
        row["curve"].append(module.accuracies)
        row["seconds"].append(module.seconds)
    return {"task": name, "seeds": seeds, "epochs": epochs, "rows": [_row(p, rows, precisions[0]) for p in precisions]}


def _row(precision: str, rows: dict[str, dict[str, list[Any]]], base: str) -> dict[str, Any]:
    own, other = rows[precision], rows[base]
    out: dict[str, Any] = {
        "precision": precision,
        "base": base,
        "accuracy": own["accuracy"],
        "mean_accuracy": statistics.fmean(own["accuracy"]),
        "epochs_to_wanted": [_reached(curve) for curve in own["curve"]],
        "seconds_to_wanted": [
            _seconds_until(c, s) for c, s in zip(own["curve"], own["seconds"], strict=True)
        ],
    }  # fmt: skip
    if precision != base and len(own["accuracy"]) > 1:
        verdict, interval = equivalence(own["accuracy"], other["accuracy"], MARGIN)
        out.update(verdict=verdict, difference=vars(interval))
        # the first epoch of a run warms the caches up
        times = [sum(a[1:] or a) / sum(b[1:] or b) for a, b in zip(own["seconds"], other["seconds"], strict=True)]
        out["time_ratio"] = vars(median_interval(times))
        pairs = [
            (_seconds_until(c1, s1), _seconds_until(c2, s2))
            for c1, s1, c2, s2 in zip(own["curve"], own["seconds"], other["curve"], other["seconds"], strict=True)
        ]
        both = [a / b for a, b in pairs if a is not None and b is not None]
        out["time_to_wanted_ratio"] = vars(median_interval(both)) if len(both) > 1 else None
    return out


def _reached(curve: list[float]) -> int | None:
    return next((i + 1 for i, value in enumerate(curve) if value >= WANTED), None)


def _seconds_until(curve: list[float], seconds: list[float]) -> float | None:
    count = _reached(curve)
    return None if count is None else sum(seconds[:count])


# -- bits per byte ----------------------------------------------------------------------------------------------------


class LanguageModel(L.LightningModule):
    """A byte transformer; judged by its loss on text that it was not trained on."""

    def __init__(self, layers: int, width: int, context: int) -> None:
        super().__init__()
        self.net = ByteTransformer(layers, width, context)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def bits_per_byte(
    precisions: Sequence[str],
    device: torch.device,
    seeds: int,
    steps: int,
    size: tuple[int, int, int, int],
    tick: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Return bits per byte after equal steps, by precision and seed, on the last tenth of the text.

    Args:
        precisions: the first is the baseline.
        device: where.
        seeds: runs of each.
        steps: updates of each.
        size: layers, width, context, batch.
        tick: told what is measured.
    """
    layers, width, context, batch = size
    text = source_bytes()
    cut = len(text) * 9 // 10
    judge = windows(text[cut:], context, batch, 8, seed=99)
    values: dict[str, list[float]] = {p: [] for p in precisions}
    for seed, setting in _paired("bytes", precisions, seeds, tick):
        module = LanguageModel(layers, width, context)
        batches = windows(text[:cut], context, batch, steps, seed=seed)
        with setting.flags():
            t = quiet_trainer(setting, device, pack(), max_epochs=1)
            t.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
            module.to(device).eval()
            with torch.no_grad(), t.precision_plugin.val_step_context():
                losses = [cross_entropy(module.net(x.to(device)).float(), y.to(device)).item() for x, y in judge]
        values[setting.precision].append(statistics.fmean(losses) / torch.tensor(2.0).log().item())
    rows = []
    for precision in precisions:
        row: dict[str, Any] = {"precision": precision, "bits": values[precision]}
        if precision != precisions[0] and seeds > 1:
            verdict, interval = equivalence(
                [100 - 100 * b / a for b, a in zip(values[precision], values[precisions[0]], strict=True)],
                [0.0] * seeds,
                BITS_MARGIN,
            )
            more_bits = {"value": -interval.value, "low": -interval.high, "high": -interval.low}
            row.update(verdict=verdict, more_bits_percent=more_bits)
        rows.append(row)
    return {"steps": steps, "seeds": seeds, "size": list(size), "rows": rows}
