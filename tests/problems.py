"""The same small training twice: in Lightning, and as a plain torch loop that knows neither Lightning nor our package.

The plain loop is the oracle. SGD is used wherever clipping is compared: Adam hides errors of scale.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

# what a resume is asked for where Lightning can be asked (since 2.6.0)
STRICT: dict[str, Any] = {"weights_only": True} if "weights_only" in inspect.signature(L.Trainer.fit).parameters else {}

INIT_SCALE = 1024.0


_read = functools.cache(load_digits)  # a tenth of a small fit


def digits(n: int = 96) -> TensorDataset:
    """The first ``n`` handwritten digits of scikit-learn, pixels in [0, 1]."""
    bunch = _read()
    images = torch.tensor(bunch.data[:n] / 16.0, dtype=torch.float32)
    return TensorDataset(images, torch.tensor(bunch.target[:n]))


def network(seed: int = 0, gain: float = 1.4) -> nn.Sequential:
    """A small network whose gradients are large enough that a threshold of 1 clips some updates and not others."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.LayerNorm(24), nn.Linear(24, 10))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(gain)
    return net


def sgd(parameters: Any, **kwargs: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, **{"lr": 0.05, **kwargs})


class Classifier(L.LightningModule):
    """The network under Lightning; ``spoil(batch_idx, loss)`` may change the loss, e.g. make it NaN."""

    def __init__(
        self,
        make_optimizer: Callable[[Any], Any] = sgd,
        manual: bool = False,
        spoil: Callable[[int, Tensor], Tensor | None] | None = None,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = network() if net is None else net
        self.echo = nn.Identity()  # what detectors of generators may look at
        self.make_optimizer = make_optimizer
        self.automatic_optimization = not manual
        self.spoil = spoil
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss: Any = nn.functional.cross_entropy(self.net(self.echo(x)), y)
        if self.spoil is not None:
            loss = self.spoil(self.seen, loss)
        self.seen += 1
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def sample(self, count: int) -> Tensor:
        return torch.rand(count, 64) * 0.3**self.current_epoch

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


class Nothing(nn.Module):
    """Multiplies by 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


class WithHyperparameters(Classifier):
    """Saves a hyperparameter of its own, and logs its loss as users do."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss


class Collapsed(Classifier):
    """Everything about it has collapsed: inputs, units, predictions, samples; and it gets worse."""

    def __init__(self, make_optimizer: Callable[[Any], Any] = lambda p: sgd(p, maximize=True, lr=0.5)) -> None:
        super().__init__(make_optimizer)
        self.echo = Nothing()
        nn.init.constant_(self.net[0].bias, -1.0)  # type: ignore[index,arg-type]


class Memory(L.loggers.Logger):
    """A logger that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, dict(metrics)))

    def series(self, key: str) -> dict[int, float]:
        return {step: row[key] for step, row in self.rows if key in row}


def scaler(init_scale: float = INIT_SCALE) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)


def precision_arguments(precision: str, init_scale: float = INIT_SCALE) -> dict[str, Any]:
    """Trainer arguments; 16-mixed with a real GradScaler, which ``precision="16-mixed"`` does not give on a CPU."""
    if precision == "16-mixed":
        return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler(init_scale))]}
    return {"precision": precision}


def trainer(callbacks: Sequence[Any] = (), precision: str = "32-true", **kwargs: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    arguments = precision_arguments(precision, kwargs.pop("init_scale", INIT_SCALE))
    plugins = [*kwargs.pop("plugins", ()), *arguments.pop("plugins", ())]
    return L.Trainer(callbacks=list(callbacks), plugins=plugins, **{**defaults, **arguments, **kwargs})


def loader(n: int = 96, batch: int = 8) -> DataLoader[Any]:
    return DataLoader(digits(n), batch_size=batch)


def fit(
    module: L.LightningModule, callbacks: Sequence[Any] = (), n: int = 96, batch: int = 8, **kwargs: Any
) -> L.Trainer:
    t = trainer(callbacks, **kwargs)
    t.fit(module, loader(n, batch))
    return t


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in module.parameters()])


def micro_batches(n: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from loader(n, batch)


def plain_loop(
    clip: Callable[[list[nn.Parameter]], Any] = lambda parameters: None,
    *,
    make_optimizer: Callable[[Any], Any] = sgd,
    precision: str = "32-true",
    accumulate: int = 1,
    n: int = 96,
    batch: int = 8,
    init_scale: float = INIT_SCALE,
) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """Train without Lightning. Returns the network and the gradients (float64, before the clip) of every update."""
    net = copy.deepcopy(network())
    optimizer = make_optimizer(net.parameters())
    grad_scaler = scaler(init_scale) if precision == "16-mixed" else None
    dtype = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision)
    history = []
    batches = list(micro_batches(n, batch))
    for i, (x, y) in enumerate(batches):
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            loss = nn.functional.cross_entropy(net(x), y) / accumulate
        (loss if grad_scaler is None else grad_scaler.scale(loss)).backward()
        if (i + 1) % accumulate and i + 1 < len(batches):
            continue
        if grad_scaler is not None:
            grad_scaler.unscale_(optimizer)
        history.append({name: p.grad.double().clone() for name, p in net.named_parameters() if p.grad is not None})
        clip(list(net.parameters()))
        if grad_scaler is None:
            optimizer.step()
        else:
            grad_scaler.step(optimizer)
            grad_scaler.update()
        optimizer.zero_grad()
    return net, history
