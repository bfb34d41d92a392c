"""Trainings without labels, games and mixtures: views, pairs, codes, generators and policies."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, Script, adam, images, script
from benchmarks.models.trainings import Training

FAMILY = "everyday unlabelled"
TRAIN, TEST = images()
COLLAPSED = ("complete collapse", "dimensional collapse")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units")
EMBEDDING: dict[str, dict[str, Any]] = {
    "RepresentationCollapse": {"layer": "model"},
    "DeadUnits": {},
    "TrainingDoctor": {},
}


def encoder(width: int = 32, norm: bool = True, end: Any = None) -> nn.Sequential:
    """An encoder of images."""
    layers = [
        nn.Flatten(),
        nn.Linear(64, 128),
        *([nn.BatchNorm1d(128)] if norm else []),
        nn.ReLU(),
        nn.Linear(128, width),
    ]
    return nn.Sequential(*layers, *([] if end is None else [end]))


def seen(x: Tensor) -> Tensor:
    """A view: noise and a part that is missing."""
    kept = (torch.rand(len(x), 1, 8, 8) > 0.25).float()
    return (x + 0.2 * torch.randn_like(x)) * kept


def neighbour(s: Any) -> Tensor:
    """Accuracy of ridge regression on what the model makes of images, the worse of raw and of normalised ones."""
    known, new = s.model(TRAIN[0]), s.model(TEST[0])
    if not bool(torch.isfinite(known).all()):
        return torch.zeros(())
    return torch.minimum(ridge(known, new), ridge(F.normalize(known, dim=1), F.normalize(new, dim=1)))


def ridge(known: Tensor, new: Tensor) -> Tensor:
    """Accuracy of ridge regression with a penalty of 1 for a feature, which small differences cannot pay for."""
    known, new = (torch.cat([x, torch.ones(len(x), 1)], 1).double() for x in (known, new))
    weights = torch.linalg.solve(
        known.T @ known + torch.eye(known.shape[1]), known.T @ F.one_hot(TRAIN[1], 10).double()
    )
    return ((new @ weights).argmax(1) == TEST[1]).float().mean()


def views(seed: int, loss: Any, model: Any = encoder, optimizer: Any = None, **more: Any) -> Training:
    """Train on images; labels are in the batch and not used, unless the loss does."""
    options = {k: more.pop(k) for k in ("steps", "detectors") if k in more}
    kind, score = more.pop("kind", Script), more.pop("score", neighbour)
    options.setdefault("detectors", EMBEDDING)
    more.setdefault("batch", 128)
    make = lambda: kind(model(), loss, optimizer or adam(2e-3), TRAIN, **more)  # noqa: E731
    return script(seed, make, score, **options)


def contrast(temperature: float = 0.2, sign: float = 1.0) -> Any:
    """NT-Xent; option: the sign."""

    def loss(s: Script, batch: Any) -> Tensor:
        x = batch[0]
        z = F.normalize(s.model(torch.cat([seen(x), seen(x)])), dim=1)
        n = len(x)
        similarity = sign * z @ z.T / temperature
        return F.cross_entropy(similarity.fill_diagonal_(-1e9), torch.arange(2 * n).roll(n))

    return loss


def alike(s: Script, batch: Any) -> Tensor:
    """Two views shall be alike, and nothing else is asked for."""
    one, two = s.model(seen(batch[0])), s.model(seen(batch[0]))
    return F.mse_loss(one, two)


def triplets(margin: float, hard: bool, same: bool = False) -> Any:
    """Anchor, positive and negative of a batch, by label; options: the hardest ones; the anchor as its own negative."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, y = batch
        z = s.model(x)
        apart = torch.cdist(z, z)
        equal = y[:, None] == y
        positive = (apart * equal).amax(1)
        negative = (apart if same else apart.masked_fill(equal, 1e6)).amin(1)
        if not hard:
            return F.relu(apart[:, :, None] - apart[:, None] + margin)[equal[:, :, None] & ~equal[:, None]].mean()
        return F.relu(positive - negative + margin).mean()

    return loss


class Byol(Script):
    """Predictor and target network; options: the predictor is missing and the target is the student."""

    def __init__(self, *args: Any, target: bool = True, decay: float = 0.98, **more: Any) -> None:
        super().__init__(*args, **more)
        self.target, self.decay = copy.deepcopy(self.model).requires_grad_(False), decay
        self.predictor = t.mlp([32, 64, 32], norm=True) if target else nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        one, two = seen(batch[0]), seen(batch[0])
        with torch.no_grad():
            aims = self.target(two), self.target(one)
        guesses = self.predictor(self.model(one)), self.predictor(self.model(two))
        return 2 - sum(F.cosine_similarity(p, z).mean() for p, z in zip(guesses, aims, strict=True))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for mean, own in zip(self.target.parameters(), self.model.parameters(), strict=True):
            mean.data.mul_(self.decay).add_((1 - self.decay) * own.data)


class Towers(nn.Module):
    """One tower for the upper half of an image, one for the lower half."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = t.mlp([32, 96, 24]), t.mlp([32, 96, 24])
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        upper, lower = x.flatten(1).chunk(2, 1)
        return F.normalize(self.upper(upper), dim=1), F.normalize(self.lower(lower), dim=1)


def clip(wrong: bool) -> Any:
    """Contrastive loss of two towers; option: the second one is in another order."""

    def loss(s: Script, batch: Any) -> Tensor:
        upper, lower = batch
        one, two = s.model(torch.cat([upper, lower], 2))
        logits = s.model.scale.exp() * one @ two.T
        labels = torch.arange(len(upper))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    return loss


class Pairs(Script):
    """Upper and lower halves of images as pairs; option: the lower ones were sorted by something else."""

    def __init__(self, *args: Any, wrong: bool = False, **more: Any) -> None:
        super().__init__(*args, **more)
        x = self.train_data[0]
        lower = x[:, :, 4:][torch.randperm(len(x))] if wrong else x[:, :, 4:]
        self.train_data = (x[:, :, :4], lower)


def matching(s: Any) -> Tensor:
    """How often the right lower half is among the first five of fifty."""
    one, two = s.model(TEST[0][:50])
    return (one @ two.T).topk(5).indices.eq(torch.arange(50)[:, None]).any(1).float().mean()


# -- codes ------------------------------------------------------------------------------------------------------------


class Variational(nn.Module):
    """A VAE of images."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU())
        self.mu, self.logvar = nn.Linear(96, width), nn.Linear(96, width)
        self.decoder = t.mlp([width, 96, 64])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.body(x)
        mean, log_variance = self.mu(h), self.logvar(h)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), mean, log_variance


def elbo(reduction: str, weight: float = 1.0, annealed: int = 0) -> Any:
    """Reconstruction and KL divergence; options: how errors are added up, the weight, annealing over so many steps."""

    def loss(s: Script, batch: Any) -> Tensor:
        made, mean, log_variance = s.model(batch[0])
        error = (made - batch[0].flatten(1)).square()
        error = error.sum(1).mean() if reduction == "sum" else error.mean()
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        now = min(1.0, (s.global_step + 1) / annealed) if annealed else 1.0
        s.log_dict({"rec": error, "kl": divergence})
        return error + weight * now * divergence

    return loss


def rebuilt(s: Any) -> Tensor:
    """Share of the variance of new images that the model gives back."""
    made = s.model(TEST[0])
    made = made[0] if isinstance(made, tuple) else made
    flat = TEST[0].flatten(1)
    return 1 - (made.flatten(1) - flat).square().mean() / flat.var(0).mean()


POSTERIOR: dict[str, dict[str, Any]] = {
    "PosteriorCollapse": {"mean": "model.mu", "log_variance": "model.logvar"}, "DeadUnits": {}, "TrainingDoctor": {}
}  # fmt: skip


def rebuild(s: Script, batch: Any) -> Tensor:
    """Squared error of the image itself."""
    return F.mse_loss(s.model(batch[0]).flatten(1), batch[0].flatten(1))


class Codebook(nn.Module):
    """Nearest codes with a straight-through gradient."""

    def __init__(self, count: int, width: int, spread: float) -> None:
        super().__init__()
        self.codes = nn.Embedding(count, width)
        nn.init.normal_(self.codes.weight, std=spread)

    def forward(self, z: Tensor) -> Tensor:
        return torch.cdist(z, self.codes.weight).argmin(1)


class Quantised(nn.Module):
    """An autoencoder of four codes for each image."""

    def __init__(self, spread: float, shift: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.decoder = t.mlp([64, 96, 16]), t.mlp([16, 96, 64])
        self.book = Codebook(64, 4, spread)
        with torch.no_grad():
            self.book.codes.weight += shift
        self.extra: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x.flatten(1)).reshape(-1, 4)
        q = self.book.codes(self.book(z))
        self.extra = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        return self.decoder((z + (q - z).detach()).reshape(len(x), 16))


def quantised(s: Script, batch: Any) -> Tensor:
    """Reconstruction, codebook and commitment."""
    made = s.model(batch[0])
    return F.mse_loss(made, batch[0].flatten(1)) + s.model.extra


USAGE: dict[str, dict[str, Any]] = {"UsageCollapse": {"assignments": "model.book"}, "TrainingDoctor": {}}


class Experts(nn.Module):
    """Four experts behind a router that chooses one of them."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(64, 4), nn.ModuleList(t.mlp([64, 32, 10]) for _ in range(4))
        with torch.no_grad():
            self.router.bias[0] = bias
        self.share: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        p = self.router(x.flatten(1)).softmax(1)
        best = p.argmax(1)
        self.share = 4 * (F.one_hot(best, 4).float().mean(0) * p.mean(0)).sum()
        out = torch.stack([e(x.flatten(1)) for e in self.experts], 1)
        return (out * (F.one_hot(best, 4) * p).unsqueeze(-1)).sum(1)


def mixture(weight: float) -> Any:
    """Cross entropy, and a loss that balances experts."""
    return lambda s, b: F.cross_entropy(s.model(b[0]), b[1]) + weight * s.model.share


def used(s: Any) -> Tensor:
    """Experts in use on test images, when the answers are good."""
    chosen = s.model.router(TEST[0].flatten(1)).argmax(1)
    good = (s.model(TEST[0]).argmax(1) == TEST[1]).float().mean() > 0.8
    return good * torch.bincount(chosen, minlength=4).gt(8).float().mean()


# -- generators -------------------------------------------------------------------------------------------------------


def ring(count: int = 3000) -> Tensor:
    """Points at six places of a circle."""
    generator = torch.Generator().manual_seed(14)
    angle = 2 * math.pi * torch.randint(6, (count,), generator=generator) / 6
    return torch.stack([angle.cos(), angle.sin()], 1) * 1.5 + 0.06 * torch.randn(count, 2, generator=generator)


RING = ring()
LONG = RING.repeat(26, 1)


def places(points: Tensor) -> Tensor:
    """Share of the six places that have at least 4 % of the points near them, when most points are near one."""
    angle = 2 * math.pi * torch.arange(6) / 6
    centres = torch.stack([angle.cos(), angle.sin()], 1) * 1.5
    apart, which = torch.cdist(points, centres).min(1)
    near = torch.bincount(which[apart < 0.4], minlength=6)
    return (near > 0.04 * len(points)).float().mean()


class Gan(Script):
    """A non-saturating GAN, with one step for each network; options: rates."""

    def __init__(
        self, rates: tuple[float, float], size: int = 2, penalty: float = 0.0, saturating: bool = False
    ) -> None:
        super().__init__(nn.Identity(), None, None, (LONG,), batch=128)  # type: ignore[arg-type]
        self.automatic_optimization = False
        self.generator, self.critic = t.mlp([4, 96, 96, size]), t.mlp([size, 96, 96, 1], act=lambda: nn.LeakyReLU(0.2))
        self.rates, self.penalty, self.saturating = rates, penalty, saturating

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()  # type: ignore[misc]
        (x,) = batch
        x = x.clone().requires_grad_(True)
        made = self.generator(torch.randn(len(x), 4))
        real = self.critic(x)
        loss = F.softplus(-real).mean() + F.softplus(self.critic(made.detach())).mean()
        if self.penalty:
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            loss = loss + self.penalty * slope.square().sum(1).mean()
        second.zero_grad()
        self.manual_backward(loss)
        second.step()
        fooled = self.critic(made)
        loss = -F.softplus(fooled).mean() if self.saturating else F.softplus(-fooled).mean()
        first.zero_grad()
        self.manual_backward(loss)
        first.step()

    def configure_optimizers(self) -> Any:
        nets = zip((self.generator, self.critic), self.rates, strict=True)
        return [torch.optim.Adam(n.parameters(), lr=r, betas=(0.5, 0.99)) for n, r in nets]


def gan(seed: int, **more: Any) -> Training:
    """Train a GAN on the ring."""
    detectors: dict[str, dict[str, Any]] = {"ModeCollapse": {"generator": "generator"}, "TrainingDoctor": {}}
    score = lambda s: places(s.generator(torch.randn(1000, 4)))  # noqa: E731
    return script(seed, lambda: Gan(**more), score, 609, detectors)


class Denoiser(nn.Module):
    """Predicts the noise of a point from it and the time; its last layer starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = t.mlp([4, 128, 128, 2], act=nn.SiLU)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(torch.cat([x, time, time.square()], 1))


def diffusion(clean: bool) -> Any:
    """Noise is to be told from a noisy point; option: the point was given without the noise."""

    def loss(s: Script, batch: Any) -> Tensor:
        x = batch[0]
        time, noise = torch.rand(len(x), 1), torch.randn_like(x)
        noisy = (1 - time).sqrt() * x + time.sqrt() * noise
        return F.mse_loss(s.model(x if clean else noisy, time), noise)

    return loss


def told_noise(s: Any) -> Tensor:
    """Share of the noise's variance that is told from noisy points."""
    time, noise = torch.full((1000, 1), 0.5), torch.randn(1000, 2)
    return 1 - (s.model(0.5**0.5 * (RING[:1000] + noise), time) - noise).square().mean()


class Flow(nn.Module):
    """Six affine couplings of points."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(t.mlp([1, 48, 2], act=nn.Tanh) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x))
        for i, net in enumerate(self.nets):
            kept, moved = (x[:, :1], x[:, 1:]) if i % 2 else (x[:, 1:], x[:, :1])
            scale, shift = net(kept).chunk(2, 1)
            moved, total = moved * scale.exp() + shift, total + scale.squeeze(1)
            x = torch.cat([kept, moved] if i % 2 else [moved, kept], 1)
        return x, total


def likelihood(sign: float) -> Any:
    """Negative log-likelihood; option: the sign of the volume's change."""

    def loss(s: Script, batch: Any) -> Tensor:
        z, volume = s.model(batch[0])
        return (0.5 * z.square().sum(1) - sign * volume).mean()

    return loss


def density(s: Any) -> Tensor:
    """Mean log-likelihood of points, but for a constant."""
    z, volume = s.model(RING)
    return (volume - 0.5 * z.square().sum(1)).mean()


def points(seed: int, model: Any, loss: Any, score: Any, **more: Any) -> Training:
    """Train on points of the ring."""
    make = lambda: Script(model(), loss, more.pop("optimizer", adam(2e-3)), (RING,), batch=128)  # noqa: E731
    return script(
        seed, make, score, detectors={"DeadUnits": {}, "TrainingDoctor": {}} if model is not Flow else DOCTOR, **more
    )


# -- games ------------------------------------------------------------------------------------------------------------


class Bandit(Script):
    """REINFORCE: the state tells which of four arms pays; options: signs, baseline."""

    def __init__(self, sign: float = 1.0, baseline: bool = True, lr: float = 3e-3) -> None:
        super().__init__(t.mlp([8, 64, 4]), None, adam(lr), (torch.randn(2000, 8),), batch=64)  # type: ignore[arg-type]
        self.sign, self.baseline = sign, baseline

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        policy = torch.distributions.Categorical(logits=self.model(batch[0]))
        action = policy.sample()
        reward = (action == batch[0][:, :4].argmax(1)).float()
        self.log("reward", reward.mean(), prog_bar=True)
        gain = reward - reward.mean() if self.baseline else reward
        return -self.sign * (policy.log_prob(action) * gain).mean() - 0.01 * policy.entropy().mean()


def earned(s: Any) -> Tensor:
    """Mean reward of the best action."""
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(7))
    return (s.model(x).argmax(1) == x[:, :4].argmax(1)).float().mean()


class ValueLearning(Script):
    """Q-learning on a line of states with a target network."""

    def __init__(self, lr: float = 3e-3, discount: float = 0.9) -> None:
        x = torch.randint(10, (3000,)), torch.randint(2, (3000,))
        super().__init__(t.mlp([10, 48, 2]), None, adam(lr), x, batch=64)  # type: ignore[arg-type]
        self.target, self.discount = copy.deepcopy(self.model).requires_grad_(False), discount

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state, action = batch
        after = (state + 2 * action - 1).clamp(0, 9)
        reward = (after == 9).float()
        if self.global_step % 25 == 0:
            self.target.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            best = self.target(F.one_hot(after, 10).float()).amax(1)
        value = self.model(F.one_hot(state, 10).float()).gather(1, action[:, None]).squeeze(1)
        return F.smooth_l1_loss(value, reward + self.discount * best)


def goes_right(s: Any) -> Tensor:
    """Share of states in which it goes to where the reward is."""
    return (s.model(torch.eye(10)).argmax(1) == 1).float().mean()


def game(seed: int, make: Any, score: Any, detectors: Any, steps: int = 500) -> Training:
    """Train a policy or values."""
    return script(seed, make, score, steps, detectors)


POLICY: dict[str, dict[str, Any]] = {"UsageCollapse": {"assignments": "model", "kind": "policy"}, "TrainingDoctor": {}}
ROUTER: dict[str, dict[str, Any]] = {
    "UsageCollapse": {"assignments": "model.router", "kind": "router"},
    "TrainingDoctor": {},
}

SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "two views of images, contrast", 0.75, lambda s: views(s, contrast())),
    failing(FAMILY, "contrast with the sign lost", 0.85, lambda s: views(s, contrast(sign=-1.0)), *COLLAPSED),
    failing(FAMILY, "two views alike, nothing else", 0.75, lambda s: views(s, alike), *COLLAPSED, "shrinking weights"),
    failing(FAMILY, "two views alike, nothing else, a last tanh", 0.75, lambda s: views(s, alike, lambda: encoder(end=nn.Tanh())), *COLLAPSED),
    healthy(FAMILY, "all triplets of a batch, margin 1", 0.85, lambda s: views(s, triplets(1.0, False), batch=48)),
    healthy(FAMILY, "all triplets of a batch, soon satisfied", 0.85, lambda s: views(s, triplets(0.1, False), batch=48, steps=400)),
    failing(FAMILY, "the anchor as its own negative", 0.75, lambda s: views(s, triplets(0.5, True, same=True)), *COLLAPSED, "shrinking weights"),
    healthy(FAMILY, "a target network and a predictor", 0.75, lambda s: views(s, None, kind=Byol, steps=400, optimizer=adam(1e-3))),
    failing(FAMILY, "the target network is the student, no predictor", 0.75,
            lambda s: views(s, None, lambda: encoder(norm=False), kind=Byol, target=False, decay=0.0, steps=400), *COLLAPSED),
    healthy(FAMILY, "halves of images in two towers", 0.45, lambda s: views(
        s, clip(False), Towers, kind=Pairs, score=matching, detectors={"RepresentationCollapse": {"layer": "model.upper"}, "TrainingDoctor": {}}, steps=400)),
    failing(FAMILY, "halves of other images in two towers", 0.45, lambda s: views(
        s, clip(True), Towers, kind=Pairs, wrong=True, score=matching,
        detectors={"RepresentationCollapse": {"layer": "model.upper"}, "TrainingDoctor": {}}, steps=400),
        *COLLAPSED, "labels do not follow from inputs", "sanity:labels follow from inputs", "overfitting"),
    healthy(FAMILY, "a VAE, errors summed over pixels", 0.3, lambda s: views(s, elbo("sum"), Variational, score=rebuilt, detectors=POSTERIOR, steps=400)),
    healthy(FAMILY, "a VAE, the KL divergence comes in slowly", 0.3,
            lambda s: views(s, elbo("sum", annealed=250), Variational, score=rebuilt, detectors=POSTERIOR, steps=400)),
    failing(FAMILY, "a VAE, errors averaged and the KL divergence summed", 0.25,
            lambda s: views(s, elbo("mean"), Variational, score=rebuilt, detectors=POSTERIOR, steps=400), "posterior collapse"),
    failing(FAMILY, "a VAE with a weight of 30 on the KL divergence", 0.25,
            lambda s: views(s, elbo("sum", 30.0), Variational, score=rebuilt, detectors=POSTERIOR, steps=400), "posterior collapse"),
    healthy(FAMILY, "an autoencoder through six numbers", 0.5, lambda s: views(
        s, rebuild, lambda: nn.Sequential(encoder(6), nn.ReLU6(), t.mlp([6, 96, 64])), score=rebuilt,
        detectors={"RepresentationCollapse": {"layer": "model.0"}, "TrainingDoctor": {}}, steps=600)),
    failing(FAMILY, "an autoencoder that ends in a sigmoid, pixels around 0", 0.35, lambda s: views(
        s, rebuild, lambda: nn.Sequential(encoder(16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid(), nn.Hardtanh(0, 0.3)), score=rebuilt,
        detectors={"DeadUnits": {}, "TrainingDoctor": {}}), "dead units", "saturated units", "no gradients", "vanishing gradients", "sanity:overfits one batch"),
    healthy(FAMILY, "64 codes near the data", 0.6, lambda s: views(
        s, quantised, lambda: Quantised(0.3), score=rebuilt, detectors=USAGE, steps=600)),
    failing(FAMILY, "64 codes, all far from the data", 0.6, lambda s: views(
        s, quantised, lambda: Quantised(0.02, 30.0), score=rebuilt, detectors=USAGE, steps=400), "codebook collapse"),
    healthy(FAMILY, "four experts with a balancing loss", 0.75, lambda s: views(s, mixture(0.1), Experts, score=used, detectors=ROUTER, steps=400)),
    failing(FAMILY, "four experts, all to the first", 0.75, lambda s: views(
        s, mixture(0.0), lambda: Experts(8.0), score=used, detectors=ROUTER, steps=400), "router collapse"),
    healthy(FAMILY, "a GAN on six places", 0.8, lambda s: gan(s, rates=(1e-3, 1e-3), penalty=0.5)),
    failing(FAMILY, "a GAN on six places, generator's rate 2e-2", 0.8, lambda s: gan(s, rates=(2e-2, 5e-4)), "mode collapse", *FAST),
    failing(FAMILY, "a saturating GAN on six places", 0.8, lambda s: gan(s, rates=(1e-4, 5e-3), saturating=True), "mode collapse",
            "vanishing gradients", *FAST),
    healthy(FAMILY, "noise of points, last layer of zeros", 0.3, lambda s: points(s, Denoiser, diffusion(False), told_noise)),
    failing(FAMILY, "noise of points that have none", 0.2, lambda s: points(s, Denoiser, diffusion(True), told_noise),
            "inputs ignored", "labels do not follow from inputs", "sanity:labels follow from inputs", "sanity:overfits one batch"),
    healthy(FAMILY, "couplings of points", 0.3, lambda s: points(s, Flow, likelihood(1.0), density, steps=500)),
    failing(FAMILY, "couplings of points, sign of the volume", 0.0, lambda s: points(s, Flow, likelihood(-1.0), density, steps=500),
            "complete collapse", "divergence", "dimensional collapse", "shrinking weights", "sanity:inputs matter"),
    healthy(FAMILY, "four arms, a baseline", 0.8, lambda s: game(s, Bandit, earned, POLICY)),
    failing(FAMILY, "four arms, the worst is sought", 0.5, lambda s: game(s, lambda: Bandit(sign=-1.0), earned, POLICY),
            "policy collapse", "sanity:overfits one batch"),
    failing(FAMILY, "four arms, AdamW 0.3", 0.8, lambda s: game(s, lambda: Bandit(lr=0.3, baseline=False), earned, POLICY),
            "policy collapse", *FAST, twin="four arms, a baseline"),
    healthy(FAMILY, "values of ten states", 0.75, lambda s: game(s, ValueLearning, goes_right, DOCTOR, 600)),
]  # fmt: skip
