"""Whether a long training grows: objects, tensors, hooks, states, logs and calls are counted at marks on the way.

Nothing here reads a clock: a loaded machine gives the same counts.
"""

from __future__ import annotations

import gc
import io
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset

import lightning_tricks as lt
from benchmarks.quiet import loggers_silent

_OURS = str(Path(lt.__file__).parent)
CLASSES, WIDTH = 4, 8


class Everything(L.LightningModule):
    """A small network that has something to look at for each detector, on data that it can learn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, WIDTH))
        self.mean, self.log_variance = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.router, self.generator = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def losses(self, batch: Any) -> Tensor:
        """The loss of a batch: classification, reconstruction, a prior, and a balanced use of the router's outputs."""
        x, y = batch
        z = self.encoder(x)
        mean, log_variance = self.mean(z), self.log_variance(z).clamp(-4, 4)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        prior = 0.01 * (mean.square() + log_variance.exp() - log_variance - 1).mean()
        routed = self.router(z)
        return (
            cross_entropy(self.head(z), y) + (self.generator(latent) - x).square().mean() + prior
            + cross_entropy(routed, y)
        )  # fmt: skip

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.losses(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.losses(batch))

    def sample(self, count: int) -> Tensor:
        """What the generator makes of random numbers; ``GenerationDrift`` asks for it."""
        return self.generator(torch.randn(count, WIDTH))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def learnable(rows: int, seed: int = 0) -> TensorDataset:
    """Points around ``CLASSES`` centres, and which one it was."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    noise = torch.randn(rows, WIDTH, generator=generator)
    return TensorDataset(2.0 * one_hot(labels, WIDTH) + noise, labels)


def callbacks(every: int) -> list[Any]:
    """README's list and every other callback of the pack, each that has a cadence at this one."""
    watching: dict[str, Any] = {"every_n_steps": every}
    return [
        lt.SanityCheck(overfit_batch=False),
        lt.LRFinder(num_steps=20),
        lt.GradientMonitor(noise_scale=True, update_ratio=True, **watching),
        lt.GradientClip(lt.ZClip(), nonfinite="skip"),
        lt.LRSchedule("cosine", warmup="5%"),
        lt.GradientAccumulation(2),
        lt.LossScaleGuard(),
        lt.PrecisionDoctor(**watching),
        lt.FP32Islands(["head"]),
        lt.TrainingDoctor(reference_batch=True, **watching),
        lt.MemoryDoctor(**watching),
        lt.DeadUnits(**watching),
        lt.PredictionCollapse("head", **watching),
        lt.RepresentationCollapse("encoder", **watching),
        lt.ModeCollapse("generator", **watching),
        lt.PosteriorCollapse("mean", "log_variance", **watching),
        lt.UsageCollapse("router", kind="router", **watching),
        lt.GenerationDrift(num_samples=32),
        lt.ExactResume(),
        lt.ResumeGuard(),
    ]


class Calls:
    """Counts the calls of Python and C functions on this thread, while it is entered.

    >>> with Calls() as calls: len([1])
    1
    >>> calls.total > 0
    True
    """

    def __init__(self, names: bool = False) -> None:
        self.total, self.ours = 0, 0
        self.by_name: Counter[str] = Counter()
        self._names = names

    def _count(self, frame: Any, event: str, function: Any) -> None:
        if event not in ("call", "c_call"):
            return
        self.total += 1
        code = frame.f_code
        if code.co_filename.startswith(_OURS):
            self.ours += 1
            if self._names:
                what = code.co_qualname if hasattr(code, "co_qualname") else code.co_name
                self.by_name[f"{code.co_filename[len(_OURS) + 1 :]}:{what}"] += 1

    def __enter__(self) -> Calls:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *problem: object) -> None:
        sys.setprofile(None)


def hook_handles(module: nn.Module, optimizers: Sequence[Any]) -> int:
    """Return how many hooks a module, its parts, its parameters and optimizers carry."""
    count = 0
    for part in (*module.modules(), *module.parameters(), *optimizers):
        for name, value in list(vars(part).items() if hasattr(part, "__dict__") else ()):
            if "hooks" in name and isinstance(value, dict):
                count += len(value)
        count += len(getattr(part, "_backward_hooks", None) or ()) if isinstance(part, Tensor) else 0
    return count


def saved_bytes(trainer: Any) -> dict[str, int]:
    """Return the bytes of each callback's state as a checkpoint has them."""
    sizes = {}
    for callback in trainer.callbacks:
        if type(callback).__module__.startswith("lightning_tricks"):
            buffer = io.BytesIO()
            torch.save(callback.state_dict(), buffer)
            sizes[type(callback).__name__] = buffer.tell()
    return sizes


def log_bytes(folder: Path) -> dict[str, int]:
    """Return the bytes of the files in a folder, by kind."""
    sizes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            sizes["TensorBoard" if "tfevents" in path.name else path.suffix or path.name] += path.stat().st_size
    return dict(sizes)


class Marks(L.Callback):
    """Counts at the given batches; calls are counted in the ``window`` batches after each.

    Args:
        at: numbers of batches of the whole run.
        window: batches; a multiple of all cadences, so that each mark sees the same events.
        folder: of the logs.
        tell: is given each mark when its calls are counted.
    """

    def __init__(
        self, at: Sequence[int], window: int, folder: Path, tell: Callable[[dict[str, Any]], Any] = lambda row: None
    ) -> None:
        self._at, self._window, self._folder, self._tell = set(at), window, folder, tell
        self._seen, self._left, self._calls = 0, 0, Calls()
        self.rows: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._seen in self._at:
            self.rows.append(self._look(trainer, pl_module))
            self._left, self._calls = self._window, Calls()
            self._calls.__enter__()
        elif self._left:
            self._left -= 1
            if not self._left:
                self._calls.__exit__()
                self.rows[-1] |= {"calls": self._calls.total, "calls_ours": self._calls.ours}
                self._tell(self.rows[-1])
        self._seen += 1

    def _look(self, trainer: Any, module: Any) -> dict[str, Any]:
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        states = saved_bytes(trainer)
        gc.collect()
        things = gc.get_objects()
        objects = Counter(type(thing).__name__ for thing in things)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in things if type(t) is Tensor}
        containers = sum(sys.getsizeof(thing) for thing in things if type(thing) in (dict, list, set, tuple, deque))
        return {
            "batch": self._seen,
            "objects": dict(objects),
            "tensor_bytes": sum(storages.values()),
            "container_bytes": containers,
            "hooks": hook_handles(module, trainer.optimizers),
            "states": states,
            "logs": log_bytes(self._folder),
        }


def long_run(
    folder: Path,
    at: Sequence[int],
    *,
    every: int,
    epoch: int,
    tricks: Sequence[Any],
    window: int = 0,
    batch: int = 8,
    tell: Callable[[dict[str, Any]], Any] = lambda row: None,
) -> list[dict[str, Any]]:
    """Train until after the last mark, under 16-mixed with a real GradScaler, with TensorBoard and CSV; return the marks.

    Args:
        folder: of the logs.
        at: batches at which to count.
        every: logging cadence of the Trainer, in updates.
        epoch: batches of an epoch; after each there is a validation.
        tricks: callbacks.
        window: batches in which calls are counted; by default those of two logged updates.
        batch: samples.
        tell: is given each mark on the way.
    """
    window = window or 4 * every
    marks = Marks(at, window, folder, tell)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=10**9)  # type: ignore[attr-defined]
    with warnings.catch_warnings(), loggers_silent():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            accelerator="cpu", max_steps=-1, max_epochs=-(-(max(at) + window + 2) // epoch),
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)], callbacks=[*tricks, marks],
            logger=[TensorBoardLogger(folder, "tensorboard"), CSVLogger(folder, "csv")],
            log_every_n_steps=every, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
        )  # fmt: skip
        try:
            trainer.fit(
                Everything(), DataLoader(learnable(epoch * batch), batch, shuffle=True),
                DataLoader(learnable(4 * batch, 1), batch),
            )  # fmt: skip
        finally:
            sys.setprofile(None)
    return marks.rows


def growth(rows: Sequence[dict[str, Any]], part: Callable[[dict[str, Any]], dict[str, int]]) -> dict[str, int]:
    """Return what is more at the last mark than at the first, by name; nothing that is as many or fewer."""
    first, last = Counter(part(rows[0])), Counter(part(rows[-1]))
    return {name: last[name] - first[name] for name in last if last[name] > first[name]}
