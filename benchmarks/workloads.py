"""What is trained in the precision table: a LightningModule and its batches, in the sizes of each profile."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from benchmarks.models.adversarial import Discriminator, generator
from benchmarks.models.convnext import ConvNeXt
from benchmarks.models.recurrent import RecurrentLanguageModel, SequenceClassifier
from benchmarks.models.resnet import Block, Bottleneck, resnet
from benchmarks.models.siamese import SimSiam
from benchmarks.models.transformer import VOCABULARY, ByteTransformer, source_bytes, token_pairs, windows
from benchmarks.models.vision_transformer import VisionTransformer

PROFILES = ("gpu", "cpu", "quick")
Batch = tuple[Tensor, ...]


class Supervised(L.LightningModule):
    """Cross entropy under AdamW, or under SGD with momentum."""

    def __init__(self, net: nn.Module, momentum: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.net, self.momentum, self.fused = net, momentum, fused

    def whole_loss(self, batch: Batch) -> Tensor:
        """All of a step's forward pass, for counting."""
        return cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.whole_loss(batch)

    def configure_optimizers(self) -> Any:
        # None is torch's own choice, foreach on a GPU; with False torch would go through the tensors one by one
        fused = self.fused or None
        if self.momentum:
            return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=fused)
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=fused)


class Siamese(Supervised):
    """SimSiam on two noisy views of each image."""

    def whole_loss(self, batch: Batch) -> Tensor:
        return self.net(*batch)


class Adversarial(L.LightningModule):
    """DCGAN, manual optimization: the discriminator is called three times per step."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, latent: int, fused: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator, self.latent, self.fused = generator, discriminator, latent, fused

    def _noise(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), self.latent, 1, 1, device=images.device, dtype=images.dtype)

    def _against(self, images: Tensor, real: bool) -> Tensor:
        judged = self.discriminator(images)
        return binary_cross_entropy_with_logits(judged, torch.full_like(judged, float(real)))

    def whole_loss(self, batch: Batch) -> Tensor:
        fake = self.generator(self._noise(batch[0]))
        return self._against(batch[0], True) + self._against(fake.detach(), False) + self._against(fake, True)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        for_generator, for_discriminator = self.optimizers()
        fake = self.generator(self._noise(batch[0]))
        for optimizer, loss in (
            (for_discriminator, lambda: self._against(batch[0], True) + self._against(fake.detach(), False)),
            (for_generator, lambda: self._against(fake, True)),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        parts = (self.generator, self.discriminator)
        fused = self.fused or None
        return [torch.optim.Adam(p.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=fused) for p in parts]


class Storage:
    """Batches from a store that delivers one every ``seconds``, as perfect prefetching would hand them over."""

    def __init__(self, batches: list[Batch], seconds: float) -> None:
        self._batches, self._seconds, self._due = batches, seconds, 0.0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        now = time.perf_counter()
        if now < self._due:
            time.sleep(self._due - now)
        self._due = max(self._due, now) + self._seconds
        return self._batches[index]


@dataclass(frozen=True)
class Workload:
    """One row group of the table.

    Args:
        name: on the command line.
        text: what it is.
        unit: what is counted per second.
        items: units per step.
        make: ``make(fused)`` -> module.
        batches: makes the batches, on the CPU.
        expects: the ratio over TF32 on a GPU that is expected, from public numbers.
        shares_modules: a module is called several times per step, so that autocast's weight cache matters.
        waits: the time per batch is that of a store: this many times a step's, so that arithmetic is not what limits.
        images: inputs are images, which a GPU takes in channels_last.
    """

    name: str
    text: str
    unit: str
    items: int
    make: Callable[[bool], L.LightningModule]
    batches: Callable[[], list[Batch]]
    expects: str = ""
    shares_modules: bool = False
    waits: float = 0.0
    images: bool = False


def _images(batch: int, pixels: int, classes: int, count: int = 2, channels: int = 3) -> Callable[[], list[Batch]]:
    def make() -> list[Batch]:
        draw = torch.Generator().manual_seed(0)
        return [
            (torch.randn(batch, channels, pixels, pixels, generator=draw), torch.randint(classes, (batch,), generator=draw))
            for _ in range(count)
        ]  # fmt: skip

    return make


def _views(batch: int, pixels: int) -> Callable[[], list[Batch]]:
    def make() -> list[Batch]:
        draw = torch.Generator().manual_seed(0)
        out = []
        for _ in range(2):
            images = torch.randn(batch, 3, pixels, pixels, generator=draw)
            out.append(tuple(images + 0.1 * torch.randn(images.shape, generator=draw) for _ in range(2)))
        return out

    return make


def _vectors(batch: int, shape: tuple[int, ...], classes: int) -> Callable[[], list[Batch]]:
    def make() -> list[Batch]:
        draw = torch.Generator().manual_seed(0)
        return [
            (torch.randn(batch, *shape, generator=draw), torch.randint(classes, (batch,), generator=draw))
            for _ in range(4)
        ]

    return make


def _table(features: int, width: int, layers: int) -> nn.Module:
    sizes = [features] + [width] * layers
    hidden = (x for a, b in itertools.pairwise(sizes) for x in (nn.Linear(a, b), nn.ReLU()))
    return nn.Sequential(*hidden, nn.Linear(width, 8))


def _seeded(make: Callable[[bool], L.LightningModule]) -> Callable[[bool], L.LightningModule]:
    def seeded(fused: bool) -> L.LightningModule:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make(fused)

    return seeded


def workloads(profile: str) -> dict[str, Workload]:
    """Return the workloads of a profile by name."""
    found = _gpu() if profile == "gpu" else _cpu()
    if profile == "quick":
        found = [w for w in found if w.name in ("mlp_tab", "lstm", "simsiam")]
    return {w.name: w for w in found}


def _gpu() -> list[Workload]:
    def images(block: Any, depths: tuple[int, ...]) -> Callable[[bool], L.LightningModule]:
        return _seeded(lambda fused: Supervised(resnet(block, depths, 64, 1000, large=True), True, fused))

    text = source_bytes
    rows = [
        ("resnet18", "ResNet-18, 224 pixels, batch 256, channels_last", "images", 256, images(Block, (2, 2, 2, 2)), _images(256, 224, 1000), "1.4-2.5"),
        ("resnet50", "ResNet-50, 224 pixels, batch 128, channels_last", "images", 128, images(Bottleneck, (3, 4, 6, 3)), _images(128, 224, 1000), "1.4-2.6"),
        ("vit", "ViT-S/16, 224 pixels, batch 256", "images", 256,
         _seeded(lambda f: Supervised(VisionTransformer(224, 16, 12, 384, 6, 1000), False, f)), _images(256, 224, 1000), "1.8-2.5"),
        ("vit_b", "ViT-B/16, 224 pixels, batch 64", "images", 64,
         _seeded(lambda f: Supervised(VisionTransformer(224, 16, 12, 768, 12, 1000), False, f)), _images(64, 224, 1000), "1.9-2.5"),
        ("convnext", "ConvNeXt-T, 224 pixels, batch 64", "images", 64,
         _seeded(lambda f: Supervised(ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), 1000), False, f)), _images(64, 224, 1000), "1.5-2.4"),
        ("gpt", "GPT-2 small: 12 layers of 768, context 1024, vocabulary 32,768, batch 8", "tokens", 8 * 1024,
         _seeded(lambda f: Supervised(ByteTransformer(12, 768, 1024, VOCABULARY), False, f)), lambda: windows(token_pairs(text("*.py")), 1024, 8, 4), "1.8-2.3"),
        ("lstm_lm", "LSTM language model: 2 x 1024, 128 steps, vocabulary 32,768, batch 64", "tokens", 64 * 128,
         _seeded(lambda f: Supervised(RecurrentLanguageModel(VOCABULARY, 1024, 2), False, f)), lambda: windows(token_pairs(text("*.py")), 128, 64, 4), "1.3-2"),
        ("bert", "transformer, 12 layers of 768, 512 tokens, batch 32", "sequences", 32,
         _seeded(lambda f: Supervised(ByteTransformer(12, 768, 512), False, f)), lambda: windows(text("*.py"), 512, 32, 4), "1.9"),
        ("lstm", "LSTM, 2 x 1024, 256 steps, batch 128 (cuDNN)", "sequences", 128,
         _seeded(lambda f: Supervised(SequenceClassifier(256, 1024, 2, 16), False, f)), _vectors(128, (256, 256), 16), "1.2-2"),
        ("mlp_tab", "MLP, 4 x 512, batch 4096 (launch-bound control)", "rows", 4096,
         _seeded(lambda f: Supervised(_table(64, 512, 4), False, f)), _vectors(4096, (64,), 8), "<= 1.0"),
        ("dcgan", "DCGAN, 64 pixels, batch 256, two optimizers", "images", 256,
         _seeded(lambda f: Adversarial(generator(64, 64, 128, 3), Discriminator(64, 64, 3), 128, f)), _images(256, 64, 2), "1.2-2"),
        ("simsiam", "SimSiam, ResNet-18, two views of 64 pixels, batch 256", "images", 256,
         _seeded(lambda f: Siamese(SimSiam(resnet(Block, (2, 2, 2, 2), 64, 512, large=False), 512, 1024), True, f)), _views(256, 64), "1.4-2.5"),
        ("data_bound", "ResNet-18 behind a slow store (control)", "images", 256, images(Block, (2, 2, 2, 2)), _images(256, 224, 1000), "1.0"),
    ]  # fmt: skip
    return [_row(*row) for row in rows]


def _cpu() -> list[Workload]:
    small: Callable[[bool], L.LightningModule] = _seeded(
        lambda f: Supervised(resnet(Block, (2, 2, 2, 2), 16, 10, large=False), True, f)
    )
    rows = [
        ("resnet18", "ResNet-18 of 16 channels, 32 pixels, batch 64", "images", 64, small, _images(64, 32, 10), ""),
        ("resnet50", "ResNet-50 of 8 channels, 32 pixels, batch 16", "images", 16,
         _seeded(lambda f: Supervised(resnet(Bottleneck, (3, 4, 6, 3), 8, 10, large=False), True, f)), _images(16, 32, 10), ""),
        ("vit", "ViT, 4 layers of 128, 32 pixels, batch 16", "images", 16,
         _seeded(lambda f: Supervised(VisionTransformer(32, 4, 4, 128, 4, 10), False, f)), _images(16, 32, 10), ""),
        ("gpt", "byte transformer, 2 layers of 128, context 64, batch 16, Python source", "bytes", 16 * 64,
         _seeded(lambda f: Supervised(ByteTransformer(2, 128, 64), False, f)), lambda: windows(source_bytes(), 64, 16, 4), ""),
        ("lstm", "LSTM of 64, 24 steps, batch 64", "sequences", 64,
         _seeded(lambda f: Supervised(SequenceClassifier(32, 64, 1, 16), False, f)), _vectors(64, (24, 32), 16), ""),
        ("mlp_tab", "MLP, 3 x 256, batch 128", "rows", 128,
         _seeded(lambda f: Supervised(_table(64, 256, 3), False, f)), _vectors(128, (64,), 8), ""),
        ("dcgan", "DCGAN, 16 pixels, batch 64, two optimizers", "images", 64,
         _seeded(lambda f: Adversarial(generator(16, 16, 32, 1), Discriminator(16, 16, 1), 32, f)), _images(64, 16, 2, channels=1), ""),
        ("simsiam", "SimSiam, ResNet of 8 channels, two views of 16 pixels, batch 32", "images", 32,
         _seeded(lambda f: Siamese(SimSiam(resnet(Block, (1, 1, 1, 1), 8, 64, large=False), 64, 64), True, f)), _views(32, 16), ""),
        ("data_bound", "the ResNet-18 with batch 16 behind a slow store (control)", "images", 16, small, _images(16, 32, 10), ""),
    ]  # fmt: skip
    return [_row(*row) for row in rows]


def _row(name: str, text: str, unit: str, items: int, make: Any, batches: Any, expects: str) -> Workload:
    shares = name in ("dcgan", "simsiam")
    waits = 2.5 if name == "data_bound" else 0.0
    return Workload(name, text, unit, items, make, batches, expects, shares, waits, images=unit == "images")


def on_device(batches: list[Batch], device: torch.device) -> list[Batch]:
    """Move batches; images in channels_last on a GPU."""
    moved = [tuple(t.to(device) for t in batch) for batch in batches]
    if device.type == "cuda":
        moved = [tuple(t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in b) for b in moved]
    return moved
