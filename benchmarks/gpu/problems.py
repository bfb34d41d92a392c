"""Two small trainings, in Lightning and as plain torch loops, on any device: what the correctness part compares."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.gpu.rows import Context
from benchmarks.settings import Setting

STEPS, BATCH, WINDOW = 16, 16, 2
RATE, LARGEST_NORM, SCALE = 0.05, 0.5, 1024.0
PRECISIONS = ("ieee-fp32", "tf32", "bf16-mixed", "16-mixed")
NETS = ("conv", "lstm")


class Recurrent(nn.Module):
    """Rows of an image in turn through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.LSTM(36, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def network(name: str, dropout: float = 0.0) -> nn.Module:
    """Return a net on images ``[n, 3, 12, 12]``, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "lstm":
            return Recurrent()
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)),
        )


class Module(L.LightningModule):
    """Cross entropy under SGD with momentum.

    Args:
        net: a network.
        fused: a fused optimizer; else torch's own choice.
        manual: manual optimization.
        spoilt: numbers of the micro-batches whose loss is infinite.
    """

    def __init__(self, net: nn.Module, fused: bool = False, manual: bool = False, spoilt: Sequence[int] = ()) -> None:
        super().__init__()
        self.net, self.fused, self.spoilt = net, fused, spoilt
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if batch_idx in self.spoilt:
            loss = loss * math.inf
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return optimizer_of(self.net, self.fused)


def optimizer_of(net: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """SGD: Adam would hide errors of scale."""
    return torch.optim.SGD(net.parameters(), RATE, momentum=0.9, fused=fused or None)


def batches(steps: int = STEPS, shuffle: bool = False) -> DataLoader[Any]:
    """Return the loader; the images are random, and the same in each call."""
    draw = torch.Generator().manual_seed(1)
    count = BATCH * steps
    data = TensorDataset(torch.randn(count, 3, 12, 12, generator=draw), torch.randint(10, (count,), generator=draw))
    return DataLoader(data, BATCH, shuffle=shuffle)


def scaler(device: torch.device, init_scale: float = SCALE) -> torch.amp.GradScaler:
    """A scaler that skips nothing of these trainings."""
    return torch.amp.GradScaler(device.type, init_scale=init_scale)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Let torch take kernels that give the same result twice; put its flags back."""
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def trainer(context: Context, callbacks: Sequence[Any], precision: str = "ieee-fp32", **arguments: Any) -> L.Trainer:
    """A Trainer on the device; 16-mixed has a scaler on a CPU too."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    fixed: dict[str, Any] = {
        "accelerator": context.accelerator,
        "devices": 1,
        "max_epochs": 1,
        "log_every_n_steps": 10**6,
    }
    if precision == "16-mixed":
        fixed["plugins"] = [MixedPrecision("16-mixed", context.device.type, scaler(context.device))]
    elif precision not in ("ieee-fp32", "tf32"):
        fixed["precision"] = precision
    return L.Trainer(**{**quiet, **fixed, "callbacks": list(callbacks), **arguments})


def fitted(
    context: Context,
    module: L.LightningModule,
    callbacks: Sequence[Any],
    precision: str = "ieee-fp32",
    **arguments: Any,
) -> Tensor:
    """Train, and return all weights as one vector."""
    torch.manual_seed(0)
    loader = arguments.pop("loader", None)
    with Setting(precision).flags():
        trainer(context, callbacks, precision, **arguments).fit(module, batches() if loader is None else loader)
    return weights(module)


def weights(module: nn.Module) -> Tensor:
    """All weights as one vector of float64, on the host."""
    return torch.cat([p.detach().double().cpu().flatten() for p in module.parameters()])


def plain(
    device: torch.device,
    net: nn.Module,
    precision: str,
    fused: bool,
    window: int = 1,
    rate: Callable[[int], float] = lambda update: 1.0,
    spoilt: Sequence[int] = (),
) -> tuple[Tensor, float, int]:
    """Train without Lightning and without us: means over windows, clipped by the norm.

    Args:
        device: where.
        net: copied.
        precision: one of ``PRECISIONS``.
        fused: a fused optimizer.
        window: micro-batches per update.
        rate: number of an applied update -> factor on the rate.
        spoilt: numbers of the micro-batches whose loss is infinite.

    Returns:
        The weights, the loss scale at the end, and the number of applied updates.
    """
    net = copy.deepcopy(net).to(device).train()
    optimizer = optimizer_of(net, fused)
    grad_scaler = scaler(device) if precision == "16-mixed" else None
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    applied = 0
    torch.manual_seed(0)
    with Setting(precision).flags():
        for i, (x, y) in enumerate(batches()):
            autocast = torch.autocast(device.type, dtype, cache_enabled=False) if dtype else contextlib.nullcontext()
            with autocast:
                loss = nn.functional.cross_entropy(net(x.to(device)), y.to(device)) / window
            if i in spoilt:
                loss = loss * math.inf
            (loss if grad_scaler is None else grad_scaler.scale(loss)).backward()
            if (i + 1) % window:
                continue
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate(applied)
            if grad_scaler is None:
                nn.utils.clip_grad_norm_(net.parameters(), LARGEST_NORM)
                optimizer.step()
                applied += 1
            else:
                grad_scaler.unscale_(optimizer)
                norm = nn.utils.clip_grad_norm_(net.parameters(), LARGEST_NORM)
                grad_scaler.step(optimizer)
                grad_scaler.update()
                applied += int(norm.isfinite())
            optimizer.zero_grad()
    return weights(net), 1.0 if grad_scaler is None else grad_scaler.get_scale(), applied
