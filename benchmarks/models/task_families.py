"""Nineteen further families of small tasks, in two halves: one to tune the finder on, one that tuning has never seen.

The rule of the split was fixed before any of them was trained: families sorted by the SHA-256 of their name, the first
half is for development, the second is held out. The third optimizer of a family follows from the same hash.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sysconfig
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits, load_wine
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, normalize, smooth_l1_loss
from torch.utils.data import TensorDataset

from benchmarks.models.small_tasks import Task, next_byte, source_text, split


def _images() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.images / 16.0).float().unsqueeze(1), torch.tensor(bunch.target)


def _digits() -> tuple[TensorDataset, TensorDataset]:
    return split(*_images(), 400)


def _text(context: int, count: int) -> Tensor:
    """Rows of bytes of Python's source, ``[count, context]``; fewer where there is less source, as of Python 3.14."""
    data = torch.frombuffer(bytearray(source_text()[: context * count]), dtype=torch.uint8)
    return data[: len(data) // context * context].long().clamp(max=127).reshape(-1, context)


# -- transformers -----------------------------------------------------------------------------------------------------


class PostNormText(nn.Module):
    """Two causal layers of width 32 with the normalisation after the sum, as in 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(128, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, norm_first=False)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 128)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(24), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens) + self.places, mask=self.mask, is_causal=True))


def postnorm_transformer() -> Task:
    """The next byte of Python source, post-norm."""
    rows = _text(25, 9_000)
    return Task(PostNormText, next_byte, *split(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), 256), 16)


class PatchTransformer(nn.Module):
    """16 patches of 2 x 2 pixels, two pre-norm layers of width 32, the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(1, 32, 2, 2), nn.Parameter(0.02 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(self.patches(images).flatten(2).mT + self.places).mean(1))


def vision_transformer() -> Task:
    """Digits."""
    return Task(PatchTransformer, cross_entropy, *_digits(), 32)


# -- convolutions -----------------------------------------------------------------------------------------------------


def normalised_convolutions() -> Task:
    """Digits, three convolutions with BatchNorm."""

    def net() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 12, 1), (12, 24, 2), (24, 24, 2)):
            convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))

    return Task(net, cross_entropy, *_digits(), 32)


def deep_plain_convolutions() -> Task:
    """Digits, seven convolutions without normalisation or shortcuts."""

    def net() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU()]
        for _ in range(6):
            layers += [nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(192, 10))

    return Task(net, cross_entropy, *_digits(), 32)


def denoising_convolutions() -> Task:
    """Digits under noise; the clean ones are to be told."""
    images, _ = _images()
    noise = 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))

    def net() -> nn.Module:
        inner = [nn.Conv2d(1, 12, 3, 1, 1), nn.SiLU(), nn.Conv2d(12, 12, 3, 1, 1), nn.SiLU()]
        return nn.Sequential(*inner, nn.Conv2d(12, 1, 3, 1, 1))

    return Task(net, mse_loss, *split(images + noise, images, 400), 16)


# -- recurrent cells --------------------------------------------------------------------------------------------------


class Last(nn.Module):
    """A recurrent layer, and a linear one on its last output."""

    def __init__(self, cell: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(width, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.cell(rows)[0][:, -1])


def gated_cell() -> Task:
    """Digits row by row, GRU of 40."""
    images, labels = _images()
    data = split(images.squeeze(1), labels, 400)
    return Task(lambda: Last(nn.GRU(8, 40, batch_first=True), 40, 10), cross_entropy, *data, 32)


def plain_cell() -> Task:
    """A chaotic map seen through noise: 20 values, the next one is to be told; tanh cell of 32."""
    draw = torch.Generator().manual_seed(0)
    value, values = 0.4, []
    for _ in range(3200):
        value = 3.8 * value * (1.0 - value)
        values.append(value)
    series = torch.tensor(values) + 0.03 * torch.randn(3200, generator=draw)
    windows = series.unfold(0, 21, 1)
    data = split(windows[:, :-1].unsqueeze(-1).contiguous(), windows[:, -1:].contiguous(), 500)
    return Task(lambda: Last(nn.RNN(1, 32, batch_first=True), 32, 1), mse_loss, *data, 32)


# -- representations --------------------------------------------------------------------------------------------------


class Factors(nn.Module):
    """Two tables of 8 factors and two of biases, small at the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(150, 8), nn.Embedding(100, 8)
        self.offsets = nn.ModuleList([nn.Embedding(150, 1), nn.Embedding(100, 1)])
        for table in (self.users, self.items, *self.offsets):
            nn.init.normal_(table.weight, std=0.1)  # type: ignore[arg-type]

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        offsets = self.offsets[0](user) + self.offsets[1](item)
        return offsets.squeeze(1) + (self.users(user) * self.items(item)).sum(1)


def matrix_factorisation() -> Task:
    """Ratings of 150 users for 100 items: a mean of 3, biases and 4 factors."""
    draw = torch.Generator().manual_seed(0)
    users, items = torch.randn(150, 4, generator=draw), torch.randn(100, 4, generator=draw)
    biases = 0.4 * torch.randn(150, 1, generator=draw) + 0.4 * torch.randn(1, 100, generator=draw)
    ratings = 3.0 + biases + 0.5 * users @ items.mT + 0.3 * torch.randn(150, 100, generator=draw)
    pairs = torch.cartesian_prod(torch.arange(150), torch.arange(100))
    return Task(Factors, mse_loss, *split(pairs, ratings.flatten(), 3000), 128)


class TwoViews(nn.Module):
    """An encoder of two views of a digit, each with noise and hidden pixels; the same views when it is judged."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, images: Tensor) -> Tensor:
        draw = None if self.training else torch.Generator().manual_seed(0)
        shape = (2, *images.flatten(1).shape)
        shown = torch.rand(shape, generator=draw) > 0.3
        views = images.flatten(1) * shown + 0.1 * torch.randn(shape, generator=draw)
        return normalize(self.encoder(views.flatten(0, 1)), dim=1)


def _contrast(embeddings: Tensor, _: Tensor) -> Tensor:
    """SimCLR's loss at a temperature of 0.2."""
    count = len(embeddings) // 2
    similarity = embeddings @ embeddings.mT / 0.2
    similarity = similarity - 1e4 * torch.eye(2 * count)
    return cross_entropy(similarity, torch.arange(2 * count).roll(count))


def simclr() -> Task:
    """Two views of a digit are to be found among those of 63 others."""
    return Task(TwoViews, _contrast, *_digits(), 64)


def sigmoid_autoencoder() -> Task:
    """Digits through a bottleneck of 8, sigmoids everywhere."""
    images, _ = _images()
    pixels = images.flatten(1)

    def net() -> nn.Module:
        widths = (64, 32, 8, 32, 64)
        layers = [nn.Sequential(nn.Linear(a, b), nn.Sigmoid()) for a, b in pairwise(widths)]
        return nn.Sequential(*layers)

    return Task(net, mse_loss, *split(pixels, pixels, 400), 32)


class Waves(nn.Module):
    """A coordinate network with sines (SIREN)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 48), nn.Linear(48, 48), nn.Linear(48, 1)])
        for i, layer in enumerate(self.layers):
            bound = 0.5 if i == 0 else math.sqrt(6.0 / 48) / 10.0
            nn.init.uniform_(layer.weight, -bound, bound)  # type: ignore[arg-type]

    def forward(self, places: Tensor) -> Tensor:
        hidden = torch.sin(10.0 * self.layers[0](places))
        return self.layers[2](torch.sin(10.0 * self.layers[1](hidden)))


def coordinate_network() -> Task:
    """The pixels of 16 digits side by side, from their places; a fifth of the pixels is kept back."""
    images, _ = _images()
    picture = images[:16].reshape(4, 4, 8, 8).permute(0, 2, 1, 3).reshape(32, 32)
    line = torch.linspace(-1.0, 1.0, 32)
    return Task(Waves, mse_loss, *split(torch.cartesian_prod(line, line), picture.reshape(-1, 1), 200), 64)


# -- labels and tails -------------------------------------------------------------------------------------------------


def multi_label() -> Task:
    """Which of 128 bytes occur among the next 12 of Python source, from the 12 before: many rare labels."""
    rows = _text(24, 6_000)
    targets = torch.zeros(len(rows), 128).scatter_(1, rows[:, 12:], 1.0)

    def net() -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(128, 48), nn.ReLU(), nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 128))

    return Task(net, binary_cross_entropy_with_logits, *split(rows[:, :12].contiguous(), targets, 800), 32)


def heavy_tails() -> Task:
    """A function of 10 numbers with Student's noise of 1.5 degrees of freedom, smooth L1."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2600, 10, generator=draw)
    signal = 2.0 * torch.sin(inputs[:, :1]) * inputs[:, 1:2] + inputs[:, 2:3].abs()
    squares = torch.randn(2600, 3, generator=draw).square().sum(1, keepdim=True) / 3.0
    noise = 0.3 * torch.randn(2600, 1, generator=draw) / squares.pow(1.0)
    return Task(
        lambda: nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1)),
        smooth_l1_loss,
        *split(inputs, signal + noise, 600),
        32,
    )


def wrong_labels() -> Task:
    """Digits, of whose labels 40 % are drawn at random, also when it is judged."""
    images, labels = _images()
    draw = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=draw) < 0.4
    labels = torch.where(wrong, torch.randint(10, labels.shape, generator=draw), labels)
    return Task(_perceptron, cross_entropy, *split(images, labels, 400), 64)


def _perceptron() -> nn.Module:
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def batch_of_8() -> Task:
    """178 wines, 13 standardized features, dropout, 8 at a time."""
    bunch = load_wine()
    inputs = torch.tensor(bunch.data).float()
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))

    return Task(net, cross_entropy, *split(inputs, torch.tensor(bunch.target), 60), 8)


def batch_of_256() -> Task:
    """Digits, a network with LayerNorm, 256 at a time."""

    def net() -> nn.Module:
        layers = [nn.Linear(64, 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, 48), nn.LayerNorm(48), nn.GELU()]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(48, 10))

    return Task(net, cross_entropy, *_digits(), 256)


def diabetes_regression() -> Task:
    """442 patients, 10 features, a target in its own units: between 25 and 346."""
    bunch = load_diabetes()
    inputs = torch.tensor(bunch.data).float()
    data = split(inputs / inputs.std(0), torch.tensor(bunch.target).float().unsqueeze(1), 120)
    return Task(
        lambda: nn.Sequential(nn.Linear(10, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1)),
        mse_loss,
        *data,
        16,
    )


def which_file() -> Task:
    """From which of 20 files of Python's source 32 bytes are; a bag of embeddings."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(folder.glob("a*.py")) + sorted(folder.glob("c*.py")) if path.stat().st_size > 9600]
    rows, labels = [], []
    for label, path in enumerate(paths[:20]):
        data = torch.frombuffer(bytearray(path.read_bytes()[: 32 * 300]), dtype=torch.uint8)
        rows.append(data.long().clamp(max=127).reshape(-1, 32))
        labels += [label] * len(rows[-1])
    data_sets = split(torch.cat(rows), torch.tensor(labels), 800)
    return Task(lambda: nn.Sequential(nn.EmbeddingBag(128, 64), nn.Linear(64, 20)), cross_entropy, *data_sets, 32)


# -- fine-tuning ------------------------------------------------------------------------------------------------------


@functools.cache
def _trained_on_small_digits() -> dict[str, Tensor]:
    """Weights of a network that tells 0 to 4 apart."""
    images, labels = _images()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = _fine_tuned()
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        images, labels = images[labels < 5], labels[labels < 5]
        for _ in range(200):
            chosen = torch.randint(len(images), (64,))
            loss = cross_entropy(net(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.state_dict()


def _fine_tuned() -> nn.Sequential:
    layers = [nn.Conv2d(1, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(384, 5))


def fine_tuning() -> Task:
    """200 images of 5 to 9, for a network that knows 0 to 4; its head is new."""
    images, labels = _images()
    images, labels = images[labels >= 5], labels[labels >= 5] - 5
    train, judge = split(images, labels, len(images) - 200)

    def net() -> nn.Module:
        module = _fine_tuned()
        known = {name: value for name, value in _trained_on_small_digits().items() if not name.startswith("6.")}
        module.load_state_dict(known, strict=False)
        return module

    return Task(net, cross_entropy, train, judge, 20)


FAMILIES: dict[str, Callable[[], Task]] = {
    "post-norm transformer": postnorm_transformer,
    "vision transformer": vision_transformer,
    "normalised convolutions": normalised_convolutions,
    "deep plain convolutions": deep_plain_convolutions,
    "denoising convolutions": denoising_convolutions,
    "gated cell": gated_cell,
    "plain cell": plain_cell,
    "matrix factorisation": matrix_factorisation,
    "SimCLR": simclr,
    "sigmoid autoencoder": sigmoid_autoencoder,
    "coordinate network": coordinate_network,
    "multi-label": multi_label,
    "heavy tails": heavy_tails,
    "40 % wrong labels": wrong_labels,
    "batch of 8": batch_of_8,
    "batch of 256": batch_of_256,
    "diabetes regression": diabetes_regression,
    "which file": which_file,
    "fine-tuning on 200 images": fine_tuning,
}


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


_SORTED = sorted(FAMILIES, key=_digest)
DEVELOPMENT = tuple(_SORTED[: len(FAMILIES) // 2])
HELD_OUT = tuple(_SORTED[len(FAMILIES) // 2 :])


def optimizers_of(name: str) -> tuple[str, str, str]:
    """Return the optimizers that a family is trained with: two, and a third by its hash."""
    third: dict[int, Any] = {0: "RMSprop", 1: "AdamW, decay 0.1"}
    return "SGD momentum", "AdamW", third[int(_digest(name), 16) % 2]
