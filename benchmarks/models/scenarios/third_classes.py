"""Public examples that sort images, shapes and pixels into classes, told again in small: half fail, half are healthy look-alikes.

Written by somebody who has not seen the rules. The names were chosen so that all of them are in the develop half: these
scenarios are for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.retold import Example, embedding, pixels, predicting, trained
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import conv, images, right, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, neighbours

FAMILY = "third classes"
TRAIN, TEST = images(481)


# -- pytorch/examples: mnist ------------------------------------------------------------------------------------------


class Mnist(Example):
    """The network of the example; its rate is lowered by a fifth after each epoch, or after each batch."""

    def __init__(self, interval: str) -> None:
        super().__init__()
        self.interval = interval
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.relu(self.fc1(torch.flatten(self.dropout1(x), 1)))
        return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.nll_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        output = self(batch[0])
        self.log("val_loss", F.nll_loss(output, batch[1]))
        self.log("val_acc", (output.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adadelta(self.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.8)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


def mnist(seed: int, interval: str) -> Training:
    """Train fourteen epochs, as the example does."""
    score = lambda m: (m(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return trained(seed, lambda: Mnist(interval).use(TRAIN, TEST, 64), score, predicting("fc2"), 294)


class Folder(Example):
    """A small convolutional network with labels from a CSV file."""

    rate = 2e-3

    def __init__(self) -> None:
        super().__init__()
        self.model = conv()
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        return {"loss": self.criterion(logits, labels), "logits": logits, "labels": labels}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.criterion(self(batch[0]), batch[1]))


def folder(seed: int, by_name: bool) -> Training:
    """Images are listed as strings (img_10 before img_2), and labels are in the order of numbers; the validation data too."""

    def listed(data: Data) -> Data:
        names = sorted(range(len(data[0])), key=str)
        return (data[0][torch.tensor(names)], data[1]) if by_name else data

    make = lambda: Folder().use(listed(TRAIN), listed(TEST), 32)  # noqa: E731
    return trained(seed, make, right(TEST), predicting("logits", "labels"), 300)


class Mixed(Folder):
    """Mixes each batch with another order of itself (mixup), on labels of which three in ten are wrong."""

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        share = float(torch.distributions.Beta(1.0, 1.0).sample())
        order = torch.randperm(len(images))
        logits = self(share * images + (1 - share) * images[order])
        loss = share * self.criterion(logits, labels) + (1 - share) * self.criterion(logits, labels[order])
        self.log("loss", loss)
        return {"loss": loss}


def mixed(seed: int) -> Training:
    """Train with mixup; the score is the accuracy on right labels."""
    g = seeded(482)
    wrong = torch.rand(len(TRAIN[1]), generator=g) < 0.3
    labels = torch.where(wrong, torch.randint(10, TRAIN[1].shape, generator=g), TRAIN[1])
    return trained(seed, lambda: Mixed().use((TRAIN[0], labels), TEST, 32), right(TEST), predicting("model"), 350)


# -- Keras: image segmentation ----------------------------------------------------------------------------------------


def pets(count: int, seed: int) -> Data:
    """16x16 pixels with a bright blob, its dark border and noise; masks of background, blob and border."""
    g = seeded(seed)
    place = 4 + 8 * torch.rand(count, 2, 1, 1, generator=g)
    grid = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"))
    far = (grid - place).square().sum(1).sqrt()
    mask = torch.where(far < 2.5, 1, torch.where(far < 3.7, 2, 0))
    x = torch.tensor([0.0, 1.0, -1.0])[mask] + 0.5 * torch.randn(count, 16, 16, generator=g)
    return x.unsqueeze(1), mask


class UNet(Example):
    """One level down, one up, and a skip; images are flipped at random, with their masks or without."""

    rate = 3e-3

    def __init__(self, together: bool) -> None:
        super().__init__()
        self.together = together
        self.enc = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU())
        self.bottleneck = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.out = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enc(x)
        return self.out(torch.cat([skip, self.up(self.bottleneck(skip))], 1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, mask = batch
        sides = [d for d in (1, 2) if torch.rand(()) < 0.5]
        x = x.flip([d + 1 for d in sides])
        loss = F.cross_entropy(self(x), mask.flip(sides) if self.together else mask)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


def overlap(m: Any, data: Data) -> Tensor:
    """Mean of intersection over union of blobs and of borders."""
    found, mask = m(data[0]).argmax(1), data[1]
    both = [((found == k) & (mask == k)).sum() / ((found == k) | (mask == k)).sum() for k in (1, 2)]
    return torch.stack(both).mean()


def segmented(seed: int, together: bool) -> Training:
    """Train on blobs."""
    train, new = pets(600, 483), pets(150, 484)
    score = lambda m: overlap(m, new)  # noqa: E731
    return trained(seed, lambda: UNet(together).use(train, new, 16), score, predicting("out"), 220)


# -- Keras: knowledge distillation ------------------------------------------------------------------------------------


def taught(classes: int = 10) -> nn.Sequential:
    """A teacher that knows its digits."""
    net = conv(classes, 16)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for k in range(120):
        rows = torch.arange(64 * k, 64 * k + 64) % len(TRAIN[0])
        optimizer.zero_grad()
        F.cross_entropy(net(TRAIN[0][rows]), TRAIN[1][rows]).backward()
        optimizer.step()
    return net


class Distiller(Example):
    """A tenth of the loss is from labels, the rest from softened answers of a teacher."""

    rate = 2e-3

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        self.teacher.eval()
        x, y = batch
        alpha, temperature = 0.02, 4.0
        logits = self(x)
        soft = F.log_softmax(logits / temperature, dim=1), F.softmax(self.teacher(x) / temperature, dim=1)
        distillation = F.kl_div(*soft, reduction="batchmean") * temperature**2
        loss = alpha * F.cross_entropy(logits, y) + (1 - alpha) * distillation
        self.log_dict({"loss": loss, "distillation": distillation})
        return loss


def sharpened(classes: int = 10) -> nn.Sequential:
    """A teacher as it comes out of its constructor, with a last layer as large as that of a trained one."""
    net = conv(classes, 16)
    nn.init.normal_(net[-1].weight, std=0.5)  # type: ignore[arg-type]
    return net


def distilled(seed: int, loaded: bool) -> Training:
    """Teach a student; the weights of its teacher were loaded, or the line that does it was forgotten."""
    make = lambda: Distiller(taught() if loaded else sharpened()).use(TRAIN, (), 64)  # noqa: E731
    score = lambda m: (m(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return trained(seed, make, score, predicting("student"), 400)


# -- Keras: siamese network with a contrastive loss -------------------------------------------------------------------


class Pairs(Example):
    """Pairs of digits beside noise; y is 1 for a pair of one class, and the loss takes it for that or for its opposite."""

    rate = 2e-3

    def __init__(self, alike: bool) -> None:
        super().__init__()
        self.alike = alike
        self.tower = nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        order = torch.randperm(len(x))
        label = (y == y[order]).float()
        distance = F.pairwise_distance(self(x), self(x[order]))
        near, far = distance.square(), F.relu(1.0 - distance).square()
        weight = 1 + 8 * label
        loss = (weight * torch.where(label == (1.0 if self.alike else 0.0), near, far)).mean()
        self.log("contrastive", loss)
        return loss


def paired(seed: int, alike: bool) -> Training:
    """Train on pairs; the score is the accuracy of a vote of neighbours."""
    (x, y), (a, b) = pixels()
    one, two = (torch.cat([d, torch.randn(d.shape, generator=seeded(485))], 1) for d in (x, a))
    score = lambda m: neighbours(m(one), y, m(two), b)  # noqa: E731
    return trained(seed, lambda: Pairs(alike).use((one, y), (), 64), score, embedding("tower"), 350)


# -- prototypical networks --------------------------------------------------------------------------------------------


class Prototypes(Example):
    """Episodes of five classes with five known samples each; queries belong to the nearest mean, or to the farthest."""

    rate = 1e-3

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign, self.encoder = sign, nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 16))

    def logits(self, support: Tensor, query: Tensor) -> Tensor:
        """Return logits of queries ``[5 q, 5]``."""
        means = self.encoder(support).mean(1)
        return self.sign * torch.cdist(self.encoder(query).flatten(0, 1), means).square()

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        episode = batch[0][0]
        logits = self.logits(episode[:, :5], episode[:, 5:])
        labels = torch.arange(5).repeat_interleave(episode.shape[1] - 5)
        self.log("acc", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}


def episodes(count: int, seed: int) -> Tensor:
    """Classes are places on eight numbers, behind a mixture that all share, beside noise: ``[count, 5, 15, 40]``."""
    g, mixture = seeded(seed), torch.randn(8, 40, generator=seeded(486))
    place = torch.randn(count, 5, 1, 8, generator=g) + 0.35 * torch.randn(count, 5, 15, 8, generator=g)
    noise = torch.randn(count, 5, 15, 6, generator=g) @ torch.randn(6, 40, generator=seeded(487))
    return (place @ mixture + 2.5 * noise) / 4


def few_shot(seed: int, sign: float) -> Training:
    """Train on episodes; the score is the accuracy in new ones, by distance."""
    new = episodes(60, 488)

    def score(m: Any) -> Tensor:
        found = torch.stack([m.logits(e[:, :5], e[:, 5:]) / m.sign for e in new]).argmin(2)
        return (found == torch.arange(5).repeat_interleave(10)).float().mean()

    watched = {**predicting("logits", "labels"), **embedding("encoder")}
    return trained(seed, lambda: Prototypes(sign).use((episodes(400, 489),), (), 1), score, watched, 350)


# -- Keras: PointNet --------------------------------------------------------------------------------------------------


def clouds(count: int, seed: int) -> Data:
    """32 points ``[n, 3, 32]`` on a sphere, a cube, a cylinder or two balls, turned about the third axis."""
    g = seeded(seed)
    y = torch.randint(4, (count,), generator=g)
    p = torch.randn(count, 32, 3, generator=g)
    flat, height = F.normalize(p[..., :2], dim=2), 2 * torch.rand(count, 32, 1, generator=g) - 1
    side = torch.where(torch.arange(32) % 2 == 0, 0.9, -0.9)[:, None] * torch.tensor([0.0, 0.0, 1.0])
    kinds = (
        F.normalize(p, dim=2), p / p.abs().amax(2, keepdim=True), torch.cat([0.8 * flat, height], 2), F.normalize(p, dim=2) / 2 + side / 2,
    )  # fmt: skip
    x = torch.stack(kinds)[y, torch.arange(count)]
    angle = 6.28 * torch.rand(count, generator=g)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    x = torch.cat([x[..., :2] @ turn, x[..., 2:]], 2)[:, torch.randperm(32, generator=g)]
    return (x + 0.05 * torch.randn(x.shape, generator=g)).transpose(1, 2).contiguous(), y


class PointNet(Example):
    """A network for each point, the largest of all points for each feature, or of all features for each point, and a classifier."""

    rate = 2e-3

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.points = nn.Sequential(
            nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 32, 1), nn.BatchNorm1d(32), nn.ReLU()
        )
        self.classifier = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.points(x).amax(self.axis))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


def shapes(seed: int, axis: int) -> Training:
    """Train on clouds of points; the score is the accuracy."""
    train, new = clouds(1500, 490), clouds(400, 491)
    score = lambda m: (m(new[0]).argmax(1) == new[1]).float().mean()  # noqa: E731
    return trained(seed, lambda: PointNet(axis).use(train, new, 32), score, predicting("classifier"), 300)


# -- adversarial training ---------------------------------------------------------------------------------------------


class Attacked(Example):
    """Learns from images that were changed by the sign of their gradient; ``eps`` is for pixels from 0 to 1."""

    rate = 2e-3

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps, self.model = eps, conv(norm=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        with torch.enable_grad():
            x = batch[0].clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(self(x), batch[1]), x)
        logits = self(batch[0] + self.eps * slope.sign())
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}


def attacked(seed: int, eps: float) -> Training:
    """Train against attacks; the score is the accuracy on images as they are."""
    (x, y), (a, b) = pixels()
    make = lambda: Attacked(eps).use((x.view(-1, 1, 8, 8), y), (), 32)  # noqa: E731
    return trained(seed, make, right((a.view(-1, 1, 8, 8), b)), predicting("logits", "labels"), 350)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "MNIST example, StepLR after each batch", 0.75, lambda s: mnist(s, "step"), *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "MNIST example, a rate lowered after each epoch", 0.75, lambda s: mnist(s, "epoch")),
    failing(FAMILY, "a folder of images listed as strings, labels by number", 0.5, lambda s: folder(s, True), *UNLEARNED, FOLLOW, "overfitting"),
    healthy(FAMILY, "mixup of labels of which three in ten are wrong", 0.85, mixed),
    failing(FAMILY, "pets, flipped without masks", 0.35, lambda s: segmented(s, False), *UNLEARNED, FOLLOW, "evaluation differs"),
    healthy(FAMILY, "pets are flipped, masks too", 0.5, lambda s: segmented(s, True)),
    failing(FAMILY, "a student whose teacher was never loaded", 0.6, lambda s: distilled(s, False), *UNLEARNED),
    healthy(FAMILY, "a student of a teacher that was loaded", 0.8, lambda s: distilled(s, True)),
    failing(FAMILY, "contrastive loss, 1 is for different", 0.4, lambda s: paired(s, False), *UNLEARNED, "complete collapse", "dimensional collapse",
            ONE_BATCH, FOLLOW),
    healthy(FAMILY, "contrastive loss with 1 for alike", 0.6, lambda s: paired(s, True)),
    failing(FAMILY, "prototypes, the farthest wins", 0.5, lambda s: few_shot(s, 1.0), *UNLEARNED, "complete collapse", "dimensional collapse", FOLLOW,
            ONE_BATCH),
    healthy(FAMILY, "prototypes, the nearest wins", 0.75, lambda s: few_shot(s, -1.0)),
    failing(FAMILY, "clouds of points, the largest of features", 0.7, lambda s: shapes(s, 1), *UNLEARNED, FOLLOW, "overfitting", ONE_BATCH),
    healthy(FAMILY, "clouds of points, the largest of points", 0.8, lambda s: shapes(s, 2)),
    failing(FAMILY, "attacks of 8, pixels are from 0 to 1", 0.5, lambda s: attacked(s, 8.0), *UNLEARNED, *FAST, "dead units", "evaluation differs",
            FOLLOW, ONE_BATCH),
    healthy(FAMILY, "attacks of 8 of 255", 0.85, lambda s: attacked(s, 8 / 255)),
]  # fmt: skip
