"""Six small real and synthetic tasks on which a learning rate can be judged in 300 updates on one CPU thread."""

from __future__ import annotations

import hashlib
import math
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

CONTEXT = 32


@dataclass(frozen=True)
class Task:
    """A network, its loss, and data to train on and to judge by."""

    net: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    train: TensorDataset
    judge: TensorDataset
    batch: int

    def loader(self, seed: int) -> DataLoader[Any]:
        """Shuffled batches, the same for the same seed."""
        order = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, self.batch, shuffle=True, drop_last=True, generator=order)

    def module(self, seed: int) -> nn.Module:
        """The network with the weights of that seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.net()

    @torch.no_grad()
    def judged(self, module: nn.Module) -> float:
        """Return the loss on data that were not trained on."""
        module.eval()
        inputs, targets = self.judge.tensors
        return float(self.loss(module(inputs), targets))


def split(inputs: Tensor, targets: Tensor, judge: int) -> tuple[TensorDataset, TensorDataset]:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    inputs, targets = inputs[order], targets[order]
    return TensorDataset(inputs[judge:], targets[judge:]), TensorDataset(inputs[:judge], targets[:judge])


def digits_cnn() -> Task:
    """1,797 handwritten digits of 8 x 8 pixels (scikit-learn)."""
    bunch = load_digits()
    data = split(torch.tensor(bunch.images / 16.0).float().unsqueeze(1), torch.tensor(bunch.target), 400)

    def net() -> nn.Module:
        convolutions = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, padding=1), nn.ReLU()]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(512, 10))

    return Task(net, cross_entropy, *data, 64)


def breast_cancer_mlp() -> Task:
    """569 patients, 30 standardized features, 2 classes (scikit-learn)."""
    bunch = load_breast_cancer()
    inputs = torch.tensor(bunch.data).float()
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    data = split(inputs, torch.tensor(bunch.target), 150)
    return Task(
        lambda: nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)),
        cross_entropy,
        *data,
        32,
    )


def noisy_regression() -> Task:
    """A smooth function of 20 numbers with as much noise as signal."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2600, 20, generator=draw)
    weights = torch.randn(20, 8, generator=draw) / math.sqrt(20)
    signal = torch.tanh(inputs @ weights).sum(1, keepdim=True)
    signal = (signal - signal.mean()) / signal.std()
    data = split(inputs, signal + 0.7 * torch.randn(2600, 1, generator=draw), 600)
    return Task(
        lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)),
        mse_loss,
        *data,
        64,
    )


def batchnorm_spiral() -> Task:
    """Three spiral arms in the plane, a network with BatchNorm."""
    draw = torch.Generator().manual_seed(0)
    radius = torch.rand(2400, generator=draw)
    arm = torch.arange(2400) % 3
    angle = arm * (2 * math.pi / 3) + 5.0 * radius + 0.25 * torch.randn(2400, generator=draw)
    data = split(torch.stack([radius * angle.cos(), radius * angle.sin()], 1), arm, 600)

    def net() -> nn.Module:
        layers = [nn.Linear(2, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(64, 3))

    return Task(net, cross_entropy, *data, 64)


def source_text() -> bytes:
    """Source of Python's standard library, about 400 kB."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return b"".join(path.read_bytes() for path in sorted(folder.glob("a*.py")))[:400_000]


def text_hash() -> str:
    """What the text was: it differs between versions of Python."""
    return hashlib.sha256(source_text()).hexdigest()[:16]


def _text() -> tuple[TensorDataset, TensorDataset]:
    data = torch.frombuffer(bytearray(source_text()), dtype=torch.uint8).long().clamp(max=127)
    rows = data[: len(data) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    return split(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), 256)


def next_byte(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


class ByteLSTM(nn.Module):
    """Embedding 32, one LSTM of 96."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = (
            nn.Embedding(128, 32),
            nn.LSTM(32, 96, batch_first=True),
            nn.Linear(96, 128),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


class ByteAttention(nn.Module):
    """Two causal layers of width 48."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(128, 48), nn.Parameter(0.02 * torch.randn(CONTEXT, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 192, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 128)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens) + self.places, mask=self.mask, is_causal=True))


def byte_lstm() -> Task:
    """The next byte of Python source."""
    return Task(ByteLSTM, next_byte, *_text(), 16)


def byte_transformer() -> Task:
    """The next byte of Python source."""
    return Task(ByteAttention, next_byte, *_text(), 16)


TASKS: dict[str, Callable[[], Task]] = {
    "digits CNN": digits_cnn,
    "breast cancer MLP": breast_cancer_mlp,
    "noisy regression": noisy_regression,
    "BatchNorm spiral": batchnorm_spiral,
    "byte LSTM": byte_lstm,
    "byte transformer": byte_transformer,
}

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "AdamW": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr),
    "RMSprop": lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr),
    "AdamW, decay 0.1": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1),
}


def trained_loss(task: Task, optimizer: str, lr: float, seed: int, updates: int = 300) -> float:
    """Return the judged loss after so many updates at a constant rate; inf when it diverged."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # (of dropout and augmentation)
        return _trained_loss(task, optimizer, lr, seed, updates)


def _trained_loss(task: Task, optimizer: str, lr: float, seed: int, updates: int) -> float:
    module = task.module(seed).train()
    stepper = OPTIMIZERS[optimizer](module.parameters(), lr)
    done = 0
    while True:
        for inputs, targets in task.loader(seed + done):
            loss = task.loss(module(inputs), targets)
            if not torch.isfinite(loss):
                return math.inf
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            done += 1
            if done == updates:
                final = task.judged(module)
                return final if math.isfinite(final) else math.inf
