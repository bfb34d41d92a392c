"""Parts of which few are meant to be used at a time: mixtures of experts, sparse latents, binary codes and quantisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.trainings import Batches, Training, rows, split

# -- mixtures of experts ----------------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """Linear experts; a router sends each row to the one that it prefers.

    Args:
        experts: how many.
        bias: of the first expert in the router, as after an unlucky start.
    """

    def __init__(self, experts: int, inputs: int = 8, outputs: int = 4, bias: float = 0.0) -> None:
        super().__init__()
        self.router = nn.Linear(inputs, experts)
        nn.init.normal_(self.router.weight, std=0.1)
        nn.init.zeros_(self.router.bias)
        self.router.bias.data[0] = bias
        self.experts = nn.ModuleList(nn.Linear(inputs, outputs) for _ in range(experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.router(x).softmax(-1)
        weight, which = p.max(-1)
        every = torch.stack([expert(x) for expert in self.experts], 1)
        return weight[:, None] * every[torch.arange(len(x)), which], p


class RoutedRegression(L.LightningModule):
    """Regression by a mixture of experts, with the balancing loss of the Switch Transformer."""

    def __init__(self, net: Mixture, lr: float, balance: float) -> None:
        super().__init__()
        self.net, self.lr, self.balance = net, lr, balance

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        prediction, p = self.net(x)
        loss = F.mse_loss(prediction, y)
        if self.balance:
            share = F.one_hot(p.argmax(-1), p.shape[-1]).float().mean(0)
            extra = p.shape[-1] * (share * p.mean(0)).sum()
            self.log("balance", extra)
            loss = loss + self.balance * extra
        return {"loss": loss, "prediction": prediction}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def groups(batch: int, count: int) -> Callable[[torch.Generator, int], Any]:
    """Rows around some places, and a linear map for each place."""
    fixed = torch.Generator().manual_seed(11)
    places = 2.5 * torch.randn(count, 8, generator=fixed)
    maps = torch.randn(count, 8, 4, generator=fixed)

    def draw(generator: torch.Generator, index: int) -> Any:
        which = torch.randint(count, (batch,), generator=generator)
        away = torch.randn(batch, 8, generator=generator)
        return places[which] + away, torch.einsum("ni,nij->nj", away, maps[which]) / 2

    return draw


def explained(batch: Any) -> Callable[[Any], float]:
    """R squared on held-out data."""

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        rest = (module(batch[0]) - batch[1]).square().sum()
        return 1.0 - float(rest / (batch[1] - batch[1].mean(0)).square().sum())

    return score


def mixture(
    seed: int, places: int, balance: float, bias: float = 0.0, lr: float = 5e-3, steps: int = 500, experts: int = 8
) -> Training:
    """Train a mixture of experts."""
    torch.manual_seed(seed)
    draw = groups(128, places)
    val = groups(1024, places)(torch.Generator().manual_seed(10**6 + seed), 0)
    module = RoutedRegression(Mixture(experts, bias=bias), lr, balance)
    detectors: dict[str, dict[str, Any]] = {
        "TrainingDoctor": {},
        "PredictionCollapse": {"output": "prediction"},
        "UsageCollapse": {"assignments": "net.router", "kind": "router"},
    }
    return Training(module, Batches(steps, draw, seed), steps, detectors, [val], every=50, score=explained(val))


# -- sparse autoencoders ----------------------------------------------------------------------------------------------


class SparseAutoencoder(L.LightningModule):
    """A dictionary for features; most latents are 0 for most rows.

    Args:
        penalty: weight of the L1 norm of the latents.
        k: keep so many latents per row and no others; 0 for all.
    """

    def __init__(self, inputs: int, latents: int, lr: float, penalty: float = 0.0, k: int = 0) -> None:
        super().__init__()
        self.encoder, self.act = nn.Linear(inputs, latents), nn.ReLU()
        self.decoder = nn.Linear(latents, inputs)
        self.encoder.weight.data = self.decoder.weight.data.T.clone()
        self.lr, self.penalty, self.k = lr, penalty, k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.act(self.encoder(x - self.decoder.bias))
        if self.k:
            kept = z.topk(self.k, -1)
            z = torch.zeros_like(z).scatter(-1, kept.indices, kept.values)
        return self.decoder(z), z

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        back, z = self(x)
        sparsity = (z * self.decoder.weight.norm(dim=0)).sum(-1).mean()
        self.log("active", (z > 0).float().sum(-1).mean())
        return (back - x).square().sum(-1).mean() + self.penalty * sparsity

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", (self(batch[0])[0] - batch[0]).square().sum(-1).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, betas=(0.0, 0.999))


def sparse_signals(
    batch: int, atoms: int = 96, width: int = 32, active: int = 3
) -> Callable[[torch.Generator, int], Any]:
    """Sums of three of 96 directions in 32 dimensions."""
    directions = F.normalize(torch.randn(atoms, width, generator=torch.Generator().manual_seed(3)), dim=1)

    def draw(generator: torch.Generator, index: int) -> Any:
        chosen = torch.rand(batch, atoms, generator=generator).topk(active, 1).indices
        height = 0.5 + torch.rand(batch, active, 1, generator=generator)
        return ((height * directions[chosen]).sum(1),)

    return draw


def reconstructed(x: Tensor) -> Callable[[Any], float]:
    """Share of the variance that comes back through the latents."""

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        return 1.0 - float((module(x)[0] - x).square().sum() / (x - x.mean(0)).square().sum())

    return score


def sparse_autoencoder(seed: int, lr: float = 3e-3, steps: int = 500, **more: Any) -> Training:
    """Train a sparse autoencoder."""
    torch.manual_seed(seed)
    val = sparse_signals(512)(torch.Generator().manual_seed(10**6 + seed), 0)
    module = SparseAutoencoder(32, 128, lr, **more)
    detectors: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}
    data = Batches(steps, sparse_signals(128), seed)
    return Training(module, data, steps, detectors, [val], every=50, score=reconstructed(val[0]))


# -- binary codes -----------------------------------------------------------------------------------------------------


class HashCodes(L.LightningModule):
    """Codes of 16 bits for retrieval: tanh in training, signs afterwards.

    Args:
        push: weight of the term that keeps codes of different classes apart.
    """

    def __init__(self, push: float, lr: float = 1e-3, quantise: float = 0.1) -> None:
        super().__init__()
        self.hash = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16), nn.Tanh())
        self.push, self.lr, self.quantise = push, lr, quantise

    def forward(self, x: Tensor) -> Tensor:
        return self.hash(x)

    def _loss(self, batch: Any) -> Tensor:
        code = self(batch["image"])
        similar = code @ code.T / 2
        same = batch["label"][:, None] == batch["label"]
        pull, push = F.softplus(-similar)[same].mean(), F.softplus(similar)[~same].mean()
        return pull + self.push * push + self.quantise * (1 - code.abs()).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def hash_codes(seed: int, push: float, steps: int = 400, **more: Any) -> Training:
    """Learn codes of digits; score: the precision of the ten nearest by Hamming distance."""
    torch.manual_seed(seed)
    train, val = split(t.digits(), seed)
    draw = rows(train, 96)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        base, asked = (module(d[0]).sign() for d in (train, val))
        # ties are broken at random, not by the order of the rows
        near = (asked @ base.T + 0.01 * torch.rand(len(asked), len(base))).topk(10, 1).indices
        return float((train[1][near] == val[1][:, None]).float().mean())

    detectors: dict[str, dict[str, Any]] = {
        "TrainingDoctor": {},
        "DeadUnits": {},
        "RepresentationCollapse": {"layer": "hash"},
    }
    data = Batches(steps, lambda g, i: dict(zip(("image", "label"), draw(g, i), strict=True)), seed)
    held = [{"image": val[0], "label": val[1]}]
    return Training(HashCodes(push, **more), data, steps, detectors, held, every=50, score=score)


# -- product quantisation ---------------------------------------------------------------------------------------------


class Nearest(nn.Module):
    """Indices of the nearest entries of each codebook."""

    def __init__(self, books: int, entries: int, width: int, spread: float) -> None:
        super().__init__()
        self.entries = nn.Parameter(spread * torch.randn(books, entries, width))

    def forward(self, z: Tensor) -> Tensor:
        return torch.cdist(z.transpose(0, 1), self.entries).argmin(-1).T


class ProductQuantiser(L.LightningModule):
    """An autoencoder whose latent is replaced by one entry from each of four codebooks.

    Args:
        spread: of the entries at the start.
        shift: of all entries at the start.
        commit: weight of the commitment loss.
    """

    def __init__(self, spread: float, shift: float = 0.0, commit: float = 0.25, lr: float = 3e-3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.nearest = Nearest(4, 16, 4, spread)
        self.nearest.entries.data[:, 1:] += shift
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64))
        self.commit, self.lr = commit, lr

    def quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).reshape(len(x), 4, 4)
        return z, self.nearest.entries[torch.arange(4), self.nearest(z)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, q = self.quantise(x)
        return self.decoder(q.flatten(1)), q

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch[0]
        z, q = self.quantise(x)
        back = self.decoder((z + (q - z).detach()).flatten(1))
        loss = F.mse_loss(back, x) * 10 + F.mse_loss(q, z.detach()) + self.commit * F.mse_loss(z, q.detach())
        self.log("quantisation", F.mse_loss(z, q))
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch[0])[0], batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def quantiser(seed: int, spread: float, shift: float = 0.0, steps: int = 500) -> Training:
    """Train a product quantiser on digits; score: the variance of held-out digits that comes back."""
    torch.manual_seed(seed)
    train, val = split(t.digits(), seed)
    detectors: dict[str, dict[str, Any]] = {
        "TrainingDoctor": {},
        "DeadUnits": {},
        "UsageCollapse": {"assignments": "nearest", "kind": "codebook"},
    }
    data = Batches(steps, rows(train, 64), seed)
    return Training(
        ProductQuantiser(spread, shift), data, steps, detectors, [val], every=50, score=reconstructed(val[0])
    )


SCENARIOS: list[Scenario] = [
    healthy("mixtures", "mixture of experts with a balancing loss", 0.6, lambda s: mixture(s, 8, 0.05)),
    failing(
        "mixtures",
        "mixture of experts, no balancing loss, one expert is preferred",
        0.6,
        lambda s: mixture(s, 8, 0.0, bias=12.0),
        "router collapse",
        twin="mixture of experts with a balancing loss",
    ),
    failing(
        "mixtures",
        "mixture of experts, sign of the balancing loss reversed",
        0.6,
        lambda s: mixture(s, 8, -0.5),
        "router collapse",
    ),
    healthy("mixtures", "mixture of experts, two groups need few of eight", 0.6, lambda s: mixture(s, 2, 0.0)),
    healthy("mixtures", "sparse autoencoder", 0.7, lambda s: sparse_autoencoder(s, penalty=0.02)),
    healthy("mixtures", "sparse autoencoder, eight latents of 128 per row", 0.7, lambda s: sparse_autoencoder(s, k=8)),
    failing(
        "mixtures",
        "sparse autoencoder, penalty a hundred times too large",
        0.7,
        lambda s: sparse_autoencoder(s, penalty=3.0),
        "dead units",
        "no gradients",
    ),
    failing(
        "mixtures",
        "sparse autoencoder, rate 1",
        0.7,
        lambda s: sparse_autoencoder(s, lr=1.0, penalty=0.02),
        "dead units",
        "learning rate too high",
        "divergence",
        "loss spikes",
        twin="sparse autoencoder",
    ),
    healthy("mixtures", "binary codes", 0.6, lambda s: hash_codes(s, 1.0)),
    failing(
        "mixtures",
        "binary codes, nothing keeps classes apart",
        0.6,
        lambda s: hash_codes(s, 0.0),
        "complete collapse",
        "dimensional collapse",
        "saturated units",
        "inputs ignored",
    ),
    healthy("mixtures", "product quantiser", 0.4, lambda s: quantiser(s, 0.3)),
    failing(
        "mixtures",
        "product quantiser, all entries but one far away",
        0.4,
        lambda s: quantiser(s, 0.3, shift=30.0),
        "codebook collapse",
        "complete collapse",
        "inputs ignored",
    ),
]
