"""Embeddings, codes, generators and policies that people asked about in issue trackers, and their repaired versions.

Rewritten from the subjects of threads and tutorials, on digits, points on a ring and a made-up graph. The comment above each
scenario says what kind of report it is from. The names were chosen so that all of them are in the develop half: these
scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import everyday_unlabelled as unlabelled
from benchmarks.models.scripts import Script, adam, auc, images, script, sgd
from benchmarks.models.trainings import Training

FAMILY = "forum generative"
TRAIN, TEST = images()
COLLAPSED = ("complete collapse", "dimensional collapse")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units")
BATCH = "sanity:overfits one batch"

# -- pairs and triplets -----------------------------------------------------------------------------------------------


def pairs(one_is_same: bool) -> Any:
    """Contrastive loss of pairs whose label is 1 for the same class; option: the formula means it so too."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, y = batch
        partner = torch.where(
            torch.rand(len(x)) < 0.5, y.argsort().roll(1)[y.argsort().argsort()], torch.randperm(len(x))
        )
        z = s.model(x)
        apart = F.pairwise_distance(z, z[partner])
        label = (y == y[partner]).float()
        pulled = label if one_is_same else 1 - label
        return (pulled * apart.square() + (1 - pulled) * F.relu(2.0 - apart).square()).mean()

    return loss


def verified(s: Any) -> Tensor:
    """Area under the curve of "the same digit" by distance."""
    z, y = s.model(TEST[0][:300]), TEST[1][:300]
    upper = torch.ones(300, 300).triu(1) > 0
    return auc(-torch.cdist(z, z)[upper], (y[:, None] == y)[upper].float())


def hardest(normalised: bool) -> Any:
    """Soft margin of each anchor's hardest positive and hardest negative; option: unit vectors."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, y = batch
        z = s.model(x)
        z = F.normalize(z, dim=1) if normalised else z
        apart = (z[:, None] - z).square().sum(2).clamp(min=1e-12).sqrt()
        same = y[:, None] == y
        far, near = (apart * same).amax(1), apart.masked_fill(same, 1e6).amin(1)
        return F.softplus(far - near).mean()

    return loss


def embed(seed: int, loss: Any, optimizer: Any = None, norm: bool = True, **more: Any) -> Training:
    """Train an encoder of images."""
    options = {"steps": more.pop("steps", 300), "detectors": unlabelled.EMBEDDING}
    make = lambda: Script(unlabelled.encoder(norm=norm), loss, optimizer or adam(2e-3), TRAIN, batch=64, **more)  # noqa: E731
    return script(seed, make, verified, **options)


# -- codes ------------------------------------------------------------------------------------------------------------


class Nearest(nn.Module):
    """Codes that are moving averages, begun with k-means; option: sums are begun as sums, or with the means themselves."""

    def __init__(self, sums: bool, count: int = 32, width: int = 8, decay: float = 0.99) -> None:
        super().__init__()
        self.sums, self.count, self.decay, self.begun = sums, count, decay, False
        self.register_buffer("codes", torch.randn(count, width))
        self.register_buffer("size", torch.ones(count))
        self.register_buffer("total", torch.zeros(count, width))

    @torch.no_grad()
    def begin(self, z: Tensor) -> None:
        codes = z[torch.randperm(len(z))[: self.count]].clone()
        for _ in range(10):
            one = F.one_hot(torch.cdist(z, codes).argmin(1), self.count).float()
            codes = torch.where(one.sum(0)[:, None] > 0, one.T @ z / one.sum(0)[:, None].clamp(min=1), codes)
        size = F.one_hot(torch.cdist(z, codes).argmin(1), self.count).float().sum(0)
        self.codes.copy_(codes)
        self.size.copy_(size)
        self.total.copy_(codes * size[:, None] if self.sums else codes)
        self.begun = True

    def forward(self, z: Tensor) -> Tensor:
        if not self.begun:
            self.begin(z)
        index = torch.cdist(z, self.codes).argmin(1)
        if self.training:
            with torch.no_grad():
                one = F.one_hot(index, self.count).float()
                self.size.lerp_(one.sum(0), 1 - self.decay)
                self.total.lerp_(one.T @ z, 1 - self.decay)
                self.codes.copy_(self.total / self.size.clamp(min=1e-3)[:, None])
        return index


class Coded(nn.Module):
    """An autoencoder of one code for each image."""

    def __init__(self, sums: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = t.mlp([64, 96, 8]), t.mlp([8, 96, 64])
        self.book = Nearest(sums)
        self.commitment = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x.flatten(1))
        q = self.book.codes[self.book(z)]
        self.commitment = F.mse_loss(z, q.detach())
        return self.decoder(z + (q - z).detach())


def coded(seed: int, sums: bool) -> Training:
    """Train the autoencoder; score: the variance of test images that it explains."""
    loss = lambda s, b: F.mse_loss(s.model(b[0]), b[0].flatten(1)) + 0.25 * s.model.commitment  # noqa: E731
    make = lambda: Script(Coded(sums), loss, adam(2e-3), TRAIN, batch=256)  # noqa: E731
    return script(
        seed, make, unlabelled.rebuilt, 300, {"UsageCollapse": {"assignments": "model.book"}, "TrainingDoctor": {}}
    )


def likelihood(sign: float) -> Any:
    """Binary cross entropy summed over all pixels of the batch, and the KL divergence; option: its sign."""

    def loss(s: Script, batch: Any) -> Tensor:
        x = (batch[0].flatten(1) * 0.38 + 0.3).clamp(0, 1)
        made, mean, log_variance = s.model(batch[0])
        error = F.binary_cross_entropy_with_logits(made, x, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return error + sign * divergence

    return loss


def drawn(s: Any) -> Tensor:
    """Share of the variance of test images that is in what the model makes of them."""
    x = (TEST[0].flatten(1) * 0.38 + 0.3).clamp(0, 1)
    made = s.model(TEST[0])[0].sigmoid().nan_to_num(0.0)
    return 1 - (made - x).square().mean() / x.var(0).mean()


def variational(seed: int, sign: float) -> Training:
    """Train a VAE."""
    make = lambda: Script(unlabelled.Variational(), likelihood(sign), adam(2e-3), TRAIN, batch=64)  # noqa: E731
    return script(seed, make, drawn, 400, unlabelled.POSTERIOR)


# -- generators -------------------------------------------------------------------------------------------------------


class Gan(unlabelled.Gan):
    """A GAN with binary cross entropy; options: the generator's labels, smoothing, the order of the optimizers."""

    def __init__(self, fool: bool = True, smooth: float = 1.0, swapped: bool = False) -> None:
        super().__init__((1e-3, 1e-3))
        self.fool, self.smooth, self.swapped = fool, smooth, swapped

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = reversed(self.optimizers()) if self.swapped else self.optimizers()  # type: ignore[arg-type]
        x = batch[0].clone().requires_grad_(True)
        made = self.generator(torch.randn(len(x), 4))
        real, fake = self.critic(x), self.critic(made.detach())
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        right, wrong = torch.full_like(real, self.smooth), torch.zeros_like(real)
        loss = F.binary_cross_entropy_with_logits(real, right) + F.binary_cross_entropy_with_logits(fake, wrong)
        second.zero_grad()
        self.manual_backward(loss + 0.5 * slope.square().sum(1).mean())
        second.step()
        fooled = self.critic(made)
        loss = F.binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled) if self.fool else wrong)
        first.zero_grad()
        self.manual_backward(loss)
        first.step()


def gan(seed: int, **more: Any) -> Training:
    """Train a GAN on six places of a ring."""
    score = lambda s: unlabelled.places(s.generator(torch.randn(1000, 4)))  # noqa: E731
    return script(
        seed, lambda: Gan(**more), score, 609, {"ModeCollapse": {"generator": "generator"}, "TrainingDoctor": {}}
    )


# -- links of a graph -------------------------------------------------------------------------------------------------


def linked(seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Four communities: noisy features of nodes, links to train on, and links held out with the same number of others."""
    g = torch.Generator().manual_seed(seed)
    group = torch.arange(160) % 4
    x = F.one_hot(group, 4) + 1.2 * torch.randn(160, 4, generator=g)
    chance = torch.where(group[:, None] == group, 0.25, 0.01)
    links = (torch.rand(160, 160, generator=g) < chance).triu(1).nonzero()
    return x, links[torch.randperm(len(links), generator=g)], group


NODES, LINKS, GROUP = linked()
KNOWN, HIDDEN = LINKS[:-200], LINKS[-200:]
ADJACENCY = torch.eye(160)
ADJACENCY[KNOWN[:, 0], KNOWN[:, 1]] = ADJACENCY[KNOWN[:, 1], KNOWN[:, 0]] = 1.0
ADJACENCY = ADJACENCY / (ADJACENCY.sum(0).sqrt() * ADJACENCY.sum(1, keepdim=True).sqrt())


class Convolved(nn.Module):
    """Two graph convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return ADJACENCY @ self.two(F.relu(ADJACENCY @ self.one(x)))


def reconstructed(negatives: bool) -> Any:
    """Cross entropy of inner products at links; option: at pairs without a link too."""

    def loss(s: Script, batch: Any) -> Tensor:
        z = s.model(NODES)
        links = batch[0]
        found = F.softplus(-(z[links[:, 0]] * z[links[:, 1]]).sum(1)).mean()
        if not negatives:
            return found
        other = torch.randint(160, links.shape)
        return found + F.softplus((z[other[:, 0]] * z[other[:, 1]]).sum(1)).mean()

    return loss


def predicted(s: Any) -> Tensor:
    """Mean of the share of hidden links that are predicted, and of pairs of different communities that are not."""
    z = s.model(NODES)
    other = torch.randint(160, (800, 2), generator=torch.Generator().manual_seed(9))
    other = other[GROUP[other[:, 0]] != GROUP[other[:, 1]]]
    hit, wrong = (((z[p[:, 0]] * z[p[:, 1]]).sum(1) > 0).float().mean() for p in (HIDDEN, other))
    return (hit + 1 - wrong) / 2


def links(seed: int, negatives: bool) -> Training:
    """Train a graph autoencoder."""
    make = lambda: Script(Convolved(), reconstructed(negatives), adam(1e-2), (KNOWN,), batch=64)  # noqa: E731
    return script(seed, make, predicted, 300, {"RepresentationCollapse": {"layer": "model"}, "TrainingDoctor": {}})


# -- policies ---------------------------------------------------------------------------------------------------------


class Arms(unlabelled.Bandit):
    """A policy; options: the action is drawn again for the loss; clipped ratios over several epochs."""

    def __init__(self, again: bool = False, clipped: bool = False) -> None:
        super().__init__()
        self.again, self.clipped, self.kept = again, clipped, None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.clipped and batch_idx % 4 and self.kept is not None:
            state, action, gain, old = self.kept
        else:
            state = batch[0]
            with torch.no_grad():
                before = torch.distributions.Categorical(logits=self.model(state))
                action = before.sample()
                reward = (action == state[:, :4].argmax(1)).float()
                gain, old = (reward - reward.mean()) / (reward.std() + 1e-6), before.log_prob(action)
            self.kept = state, action, gain, old
        policy = torch.distributions.Categorical(logits=self.model(state))
        if self.again:
            action = policy.sample()
        if not self.clipped:
            return -(policy.log_prob(action) * gain).mean()
        ratio = (policy.log_prob(action) - old).exp()
        return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean() - 0.01 * policy.entropy().mean()


SCENARIOS: list[Scenario] = [
    # blog post on Siamese networks and questions about it: 0 means the same in one half of the code, 1 in the other
    failing(FAMILY, "pairs with the label the wrong way round", 0.7, lambda s: embed(s, pairs(False)), *COLLAPSED,
            "labels do not follow from inputs", "sanity:labels follow from inputs"),
    # the repaired code
    healthy(FAMILY, "pairs, 1 for the same", 0.85, lambda s: embed(s, pairs(True))),
    # issue of triplet-reid: the soft margin stays at log 2, all embeddings are one point
    failing(FAMILY, "hardest triplets, a loss of log 2", 0.85, lambda s: embed(s, hardest(False), sgd(0.5), False), *COLLAPSED, *FAST,
            BATCH, "shrinking weights", "vanishing gradients"),
    # issue of tensorflow-triplet-loss: unit vectors do not collapse
    healthy(FAMILY, "hardest triplets, unit vectors", 0.9, lambda s: embed(s, hardest(True), adam(1e-3))),
    # issue of vector-quantize-pytorch: after k-means, running sums start with means, and codes shrink at once; they recover
    healthy(FAMILY, "k-means taken for running sums", 0.35, lambda s: coded(s, False)),
    # the repaired code: means times sizes
    healthy(FAMILY, "k-means, and sums that follow it", 0.35, lambda s: coded(s, True)),
    # Stack Overflow: the loss of a VAE falls below 0 and becomes NaN, the sign of the KL divergence
    failing(FAMILY, "the divergence of a VAE subtracted", 0.2, lambda s: variational(s, -1.0), *FAST, "inputs ignored", BATCH),
    # PyTorch example of a VAE: sums over all pixels of a batch, losses in the thousands
    healthy(FAMILY, "a VAE, losses in the thousands", 0.2, lambda s: variational(s, 1.0)),
    # Stack Overflow: the generator's loss goes to 0, it was given the labels of fakes
    failing(FAMILY, "a generator with the labels of fakes", 0.8, lambda s: gan(s, fool=False), "mode collapse", *FAST, "vanishing gradients",
            "no gradients"),
    # issue of Lightning: two optimizers taken in the other order in manual optimization
    failing(FAMILY, "a GAN whose optimizers are swapped", 0.8, lambda s: gan(s, swapped=True), "mode collapse", "no gradients",
            "weights do not change", "sanity:all parameters learn"),
    # PyTorch tutorial on DCGAN and advice on it: real labels of 0.9
    healthy(FAMILY, "a GAN, real labels of 0.9", 0.8, lambda s: gan(s, smooth=0.9)),
    # issue of PyTorch Geometric: a graph autoencoder without negative samples
    failing(FAMILY, "links and no negative samples", 0.75, lambda s: links(s, False), *COLLAPSED, "oversmoothing"),
    # PyTorch Geometric example of a graph autoencoder
    healthy(FAMILY, "links with negative samples", 0.8, lambda s: links(s, True)),
    # PyTorch forum: REINFORCE whose loss takes a newly drawn action
    failing(FAMILY, "another action in the loss", 0.6, lambda s: unlabelled.game(s, lambda: Arms(again=True), unlabelled.earned, unlabelled.POLICY),
            "policy collapse", "labels do not follow from inputs", "sanity:labels follow from inputs", BATCH),
    # documentation of Stable-Baselines3: clipped ratios, a loss around 0
    healthy(FAMILY, "clipped ratios over four updates", 0.8, lambda s: unlabelled.game(s, lambda: Arms(clipped=True), unlabelled.earned, unlabelled.POLICY, 800)),
]  # fmt: skip
