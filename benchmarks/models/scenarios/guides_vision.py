"""Image models, coordinate networks and point clouds of tutorials, and what goes wrong when a reader adapts them.

Rewritten in small form from documented examples of libraries and courses; nothing is copied. The comment above each scenario
says what kind of example it is from and, for a failing one, which mistake was made. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, DOCTOR, PLAIN, Script, adam, conv, explained, images, right, script
from benchmarks.models.trainings import Training, mlp

FAMILY = "guides vision"
TRAIN, TEST = images()
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units")
FOLLOW, ONE_BATCH = "sanity:labels follow from inputs", "sanity:overfits one batch"
WATCHED: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy of logits."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


def smoothed(s: Script, batch: Any) -> Tensor:
    """Cross entropy of logits, labels smoothed in training."""
    return F.cross_entropy(s.model(batch[0]), batch[1], label_smoothing=0.1 if s.training else 0.0)


def all_smoothed(s: Script, batch: Any) -> Tensor:
    """Cross entropy of logits, a smoothing of 1."""
    return F.cross_entropy(s.model(batch[0]), batch[1], label_smoothing=1.0 if s.training else 0.0)


def picture(seed: int, model: Any, loss: Any = crossed, optimizer: Any = None, **more: Any) -> Training:
    """Train on images of digits, or on the tensors given as ``data`` (training and test)."""
    options = {k: more.pop(k) for k in ("steps", "detectors", "gradient_clip_val") if k in more}
    train, test = more.pop("data", (TRAIN, TEST))
    score = more.pop("score", None) or right(test)
    more.setdefault("val", test)
    options.setdefault("detectors", CLASSES)
    make = lambda: Script(model(), loss, optimizer or adam(2e-3), train, **more)  # noqa: E731
    return script(seed, make, score, **options)


# -- classifiers ------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions beside a shortcut; the scale of the last norm starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(h)))


def resnet() -> nn.Module:
    """A stem, two residual blocks and a linear layer behind the mean over places."""
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *stem, *(Block(16) for _ in range(2)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def reference_recipe(updates: int) -> Any:
    """SGD at 0.1 with Nesterov's momentum, a linear warm-up and a cosine, stepped after each update."""

    def make(s: Script) -> Any:
        optimizer = torch.optim.SGD(s.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=updates // 10)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates - updates // 10)
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[updates // 10])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": both, "interval": "step"}}

    return make


class MixerBlock(nn.Module):
    """Mixes over patches, then over channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 32), nn.GELU(), nn.Linear(32, patches))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-Mixer on patches of two by two pixels."""

    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.blocks = nn.Sequential(*(MixerBlock(16, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(h)).mean(1))


def grouped() -> nn.Module:
    """A network that was taken from BatchNorm to GroupNorm, with as many groups as channels, also behind the pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.GroupNorm(32, 32), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class Margin(nn.Module):
    """An embedding and one direction for each class; the margin is added to the angle of the right one."""

    def __init__(self, margin: float, scale: float = 16.0) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(norm=True)[:-1], nn.Linear(128, 32))
        self.weight = nn.Parameter(torch.empty(10, 32))
        nn.init.xavier_uniform_(self.weight)
        self.margin, self.scale = margin, scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.body(x)), F.normalize(self.weight))

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Cosines, with the margin for the right class, times the scale."""
        cosine = self(x).clamp(-1 + 1e-6, 1 - 1e-6)
        moved = torch.cos(torch.acos(cosine) + self.margin)
        return self.scale * torch.where(F.one_hot(y, 10).bool(), moved, cosine)


def angular(s: Script, batch: Any) -> Tensor:
    """Cross entropy of the logits with a margin."""
    return F.cross_entropy(s.model.logits(*batch), batch[1])


def flipped(s: Script, batch: Any) -> Tensor:
    """Cross entropy of images half of which are flipped, in training."""
    x, y = batch
    if s.training:
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
    return F.cross_entropy(s.model(x), y)


# -- two tasks --------------------------------------------------------------------------------------------------------


class TwoTasks(nn.Module):
    """Which digit it is, and how much ink it has: one body, two heads, a weight for each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(norm=False)[:-1], nn.Linear(128, 48), nn.ReLU())
        self.digit, self.ink = nn.Linear(48, 10), nn.Linear(48, 1)
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.digit(h), self.ink(h).squeeze(1)


def two_losses(s: Script, batch: Any) -> tuple[Tensor, Tensor]:
    """Cross entropy of the digit and squared error of the ink."""
    x, y = batch
    digit, ink = s.model(x)
    return F.cross_entropy(digit, y), F.mse_loss(ink, x.mean((1, 2, 3)) * 5)


def by_uncertainty(s: Script, batch: Any) -> Tensor:
    """Each loss is divided by a learned variance, whose logarithm is added."""
    return sum(torch.exp(-w) * loss + w / 2 for w, loss in zip(s.model.weights, two_losses(s, batch), strict=True))  # type: ignore[return-value]


def by_bare_weights(s: Script, batch: Any) -> Tensor:
    """The weights are learned with the rest: below 0 they reward errors."""
    first, second = two_losses(s, batch)
    return (1 + s.model.weights[0]) * first + (1 + s.model.weights[1]) * second


def both_right(s: Any) -> Tensor:
    """Accuracy of the digit on test images."""
    return (s.model(TEST[0])[0].argmax(1) == TEST[1]).float().mean()


# -- images from images -----------------------------------------------------------------------------------------------


def discs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images of twelve by twelve pixels with one disc, and its mask ``[n, 1, 12, 12]``."""
    g = torch.Generator().manual_seed(seed)
    middle, radius = 3 + 6 * torch.rand(count, 2, 1, 1, generator=g), 1.5 + 2 * torch.rand(count, 1, 1, generator=g)
    places = torch.arange(12.0)
    distance = (places[:, None] - middle[:, 0]).square() + (places - middle[:, 1]).square()
    mask = (distance <= radius.square()).float().unsqueeze(1)
    return mask + 0.5 * torch.randn(count, 1, 12, 12, generator=g), mask


DISCS = discs(1200, 1), discs(300, 2)


class UNet(nn.Module):
    """One level down and up again, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())  # noqa: E731
        self.enter, self.down, self.back = block(1, 12), block(12, 24), block(36, 12)
        self.up, self.out = nn.Upsample(scale_factor=2), nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x)
        below = self.down(F.max_pool2d(first, 2))
        return self.out(self.back(torch.cat([first, self.up(below)], 1)))


def dice(p: Tensor, mask: Tensor) -> Tensor:
    """One minus the Dice coefficient of a batch."""
    return 1 - 2 * (p * mask).sum() / (p.sum() + mask.sum() + 1e-7)


def compound(s: Script, batch: Any) -> Tensor:
    """Dice of probabilities and cross entropy of logits."""
    logits = s.model(batch[0])
    return dice(logits.sigmoid(), batch[1]) + F.binary_cross_entropy_with_logits(logits, batch[1])


def dice_of_logits(s: Script, batch: Any) -> Tensor:
    """Dice whose argument says that it gets probabilities, and it gets logits."""
    return dice(s.model(batch[0]), batch[1])


def overlap(s: Any) -> Tensor:
    """Intersection over union of test masks."""
    guess, mask = s.model(DISCS[1][0]) > 0, DISCS[1][1] > 0
    return (guess & mask).sum() / (guess | mask).sum()


# whether the disc is in the left half: the label that a horizontal flip destroys
SIDES = tuple((x, (m.sum((1, 2))[:, :6].sum(1) > m.sum((1, 2))[:, 6:].sum(1)).long()) for x, m in DISCS)


def located() -> nn.Module:
    """A small network for discs."""
    return nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(300, 2))


def halved(x: Tensor) -> Tensor:
    """Means over two by two pixels."""
    return F.avg_pool2d(x, 2)


SMALL = (halved(TRAIN[0]), TRAIN[0]), (halved(TEST[0]), TEST[0])


def enlarger() -> nn.Module:
    """Convolutions at the low resolution, and a shuffle of their channels into places."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 16, 3, padding=1), nn.Tanh(),
        nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def squared(s: Script, batch: Any) -> Tensor:
    """Squared error."""
    return F.mse_loss(s.model(batch[0]), batch[1])


def better_than_bilinear(s: Any) -> Tensor:
    """Share of bilinear interpolation's squared error that is gone."""
    x, y = SMALL[1]
    plain = F.interpolate(x, scale_factor=2, mode="bilinear")
    return 1 - (s.model(x) - y).square().mean() / (plain - y).square().mean()


# -- coordinates and points -------------------------------------------------------------------------------------------


def texture(seed: int = 3) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Places of a picture of 64 by 64 pixels between 0 and 1, and its waves; one place of four is held out."""
    line = torch.linspace(0, 1, 64)
    x = torch.cartesian_prod(line, line)
    y = torch.sin(38 * x[:, 0] + 6 * x[:, 1]) * torch.sin(31 * x[:, 1])
    order = torch.randperm(4096, generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    return (x[:3072], y[:3072]), (x[3072:], y[3072:])


TEXTURE = texture()


class Coordinates(nn.Module):
    """A network of places; option: how many random Fourier features, 0 for the bare coordinates."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("waves", 4 * torch.randn(2, features))
        self.net = mlp([2 * features or 2, 64, 64, 1])

    def forward(self, x: Tensor) -> Tensor:
        if self.waves.shape[1]:
            angle = 2 * math.pi * x @ self.waves
            x = torch.cat([angle.sin(), angle.cos()], 1)
        return self.net(x).squeeze(1)


def clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """48 points each of a ball's surface, a cube's, a ring or a cross, turned about the vertical axis, with noise."""
    g = torch.Generator().manual_seed(seed)
    ball = F.normalize(torch.randn(count, 48, 3, generator=g), dim=2)
    cube = torch.rand(count, 48, 3, generator=g) * 2 - 1
    cube = cube / cube.abs().amax(2, keepdim=True)
    angle = 2 * math.pi * torch.rand(count, 48, generator=g)
    ring = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 2) * 1.2
    axis = F.one_hot(torch.randint(3, (count, 48), generator=g), 3)
    cross = axis * (2.4 * torch.rand(count, 48, 1, generator=g) - 1.2)
    y = torch.randint(4, (count,), generator=g)
    x = torch.stack([ball, cube, ring, cross])[y, torch.arange(count)]
    turn = 2 * math.pi * torch.rand(count, 1, generator=g)
    x = torch.stack(
        [x[..., 0] * turn.cos() - x[..., 1] * turn.sin(), x[..., 0] * turn.sin() + x[..., 1] * turn.cos(), x[..., 2]], 2
    )
    return x + 0.08 * torch.randn(x.shape, generator=g), y


CLOUDS = clouds(1200, 5), clouds(300, 6)


class PointNet(nn.Module):
    """The same layers for each point, a maximum over points, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.each = mlp([3, 32, 48])
        self.head = mlp([48, 32, 4])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.each(x)).amax(1))


# -- boxes ------------------------------------------------------------------------------------------------------------


def rectangles(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images of 16 by 16 with one rectangle, filled or not, its box (left, top, right, bottom) in pixels, and which."""
    g = torch.Generator().manual_seed(seed)
    start, size = torch.randint(0, 9, (count, 2), generator=g), torch.randint(4, 8, (count, 2), generator=g)
    end, filled = start + size, torch.randint(2, (count,), generator=g)
    place = torch.arange(16)
    across = (place >= start[:, :1]) & (place < end[:, :1])
    down = (place >= start[:, 1:]) & (place < end[:, 1:])
    inner = ((place > start[:, :1]) & (place < end[:, :1] - 1))[:, None] & (
        (place > start[:, 1:]) & (place < end[:, 1:] - 1)
    )[:, :, None]
    shape = (down[:, :, None] & across[:, None]) & ~(inner & (filled == 0)[:, None, None])
    x = shape.float().unsqueeze(1) + 0.2 * torch.randn(count, 1, 16, 16, generator=g)
    return x, torch.cat([start, end], 1).float(), filled


BOXES = rectangles(1600, 7), rectangles(300, 8)


class Finder(nn.Module):
    """A body, a head for the class and one for the box, between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(),
        )  # fmt: skip
        self.box, self.kind = nn.Sequential(nn.Linear(64, 4), nn.Sigmoid()), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.box(h), self.kind(h)


def detection(unit: float) -> Any:
    """A smooth absolute error of the box in this unit, and the cross entropy of the class."""

    def loss(s: Script, batch: Any) -> Tensor:
        box, kind = s.model(batch[0])
        return F.smooth_l1_loss(box, batch[1] / unit, beta=0.1) + 0.1 * F.cross_entropy(kind, batch[2])

    return loss


def box_overlap(s: Any) -> Tensor:
    """Mean intersection over union of test boxes, an output of 1 being the whole image or, as trained, one pixel."""
    x, box, _ = BOXES[1]
    guess = s.model(x)[0] * s.unit
    sides = (torch.minimum(guess[:, 2:], box[:, 2:]) - torch.maximum(guess[:, :2], box[:, :2])).clamp(min=0)
    common = sides.prod(1)
    both = (guess[:, 2:] - guess[:, :2]).clamp(min=0).prod(1) + (box[:, 2:] - box[:, :2]).prod(1)
    return (common / (both - common)).mean()


def finding(seed: int, unit: float) -> Training:
    """Train to find one rectangle."""
    return picture(
        seed,
        Finder,
        detection(unit),
        adam(3e-3),
        data=BOXES,
        score=box_overlap,
        detectors=WATCHED,
        steps=400,
        unit=unit,
    )


FIELD: dict[str, Any] = {
    "data": TEXTURE,
    "score": explained(TEXTURE[1]),
    "loss": squared,
    "batch": 128,
    "detectors": PLAIN,
}
POINTS: dict[str, Any] = {"data": CLOUDS, "detectors": CLASSES, "optimizer": adam(3e-3), "steps": 400}
MASKS: dict[str, Any] = {"data": DISCS, "score": overlap, "detectors": WATCHED, "steps": 200}

SCENARIOS: list[Scenario] = [
    # torchvision's reference recipe: SGD at 0.1, warm-up, cosine, smoothed labels, residual branches that start at zero
    healthy(FAMILY, "a residual network whose last norms start at 0", 0.9, lambda s: picture(
        s, resnet, smoothed, reference_recipe(250), steps=250)),
    # course notebook on architectures of patches: the MLP-Mixer as documented
    healthy(FAMILY, "an MLP-Mixer on patches", 0.85, lambda s: picture(s, Mixer, optimizer=adam(2e-3), steps=250)),
    # recipe of vision transformers: AdamW's decay of 0.3 was given to Adam, where it is added to the gradient
    failing(FAMILY, "a Mixer, the decay meant for AdamW in Adam", 0.6, lambda s: picture(
        s, Mixer, optimizer=lambda m: torch.optim.Adam(m.parameters(), lr=2e-3, weight_decay=0.3), steps=250),
        "shrinking weights", *UNRELATED, "vanishing gradients"),
    # migration guide from BatchNorm to GroupNorm: one group for each channel is one number behind the pooling
    failing(FAMILY, "as many groups as channels, behind the pooling", 0.5, lambda s: picture(s, grouped, steps=200), *UNRELATED,
            "sanity:inputs matter", ONE_BATCH, "no gradients", "vanishing gradients"),
    # documentation of a library for metric learning: ArcFace with a margin of 0.5
    healthy(FAMILY, "ArcFace, the margin in radians", 0.9, lambda s: picture(s, lambda: Margin(0.5), angular, detectors=PLAIN)),
    # the same: an older example gave the margin in degrees
    failing(FAMILY, "ArcFace, the margin in degrees", 0.7, lambda s: picture(s, lambda: Margin(28.6), angular, detectors=PLAIN),
            *UNRELATED, FOLLOW, "divergence"),
    # tutorial on augmentation: RandomHorizontalFlip where the label is a side
    failing(FAMILY, "is the disc left or right, flipped at random", 0.7, lambda s: picture(
        s, located, flipped, adam(1e-3), data=SIDES), *UNRELATED, FOLLOW),
    # example of several tasks with learned uncertainties: the loss falls below 0
    healthy(FAMILY, "two tasks weighed by their uncertainty", 0.9, lambda s: picture(
        s, TwoTasks, by_uncertainty, adam(3e-3), score=both_right, detectors=WATCHED)),
    # the same with weights that are plain parameters: they grow below 0, and errors are rewarded
    failing(FAMILY, "two tasks, their weights are plain parameters", 0.7, lambda s: picture(
        s, TwoTasks, by_bare_weights, lambda m: torch.optim.Adam([{"params": [p for n, p in m.named_parameters() if n != "model.weights"]},
                                                                 {"params": [m.model.weights], "lr": 0.05}], lr=3e-3),
        score=both_right, detectors=WATCHED, steps=400), *FAST, *UNRELATED, onset=0.05),
    # documentation of a library for segmentation: Dice and cross entropy of a small U-Net
    healthy(FAMILY, "discs by Dice and cross entropy", 0.7, lambda s: picture(s, UNet, compound, adam(3e-3), **MASKS)),
    # the same: from_logits=False, and the network has no sigmoid
    failing(FAMILY, "Dice of logits", 0.65, lambda s: picture(s, UNet, dice_of_logits, adam(3e-3), **MASKS), *FAST, *UNRELATED, ONE_BATCH),
    # PyTorch example of super-resolution: sub-pixel convolution
    healthy(FAMILY, "twice the resolution", 0.3, lambda s: picture(
        s, enlarger, squared, adam(3e-3), data=SMALL, score=better_than_bilinear, detectors=DOCTOR, steps=400)),
    # minimal radiance field: the Fourier features of places
    healthy(FAMILY, "coordinates through Fourier features", 0.8, lambda s: picture(s, lambda: Coordinates(48), optimizer=adam(3e-3), **FIELD)),
    # the same: the encoding of places was left out
    failing(FAMILY, "coordinates without Fourier features", 0.5, lambda s: picture(s, lambda: Coordinates(0), optimizer=adam(3e-3), **FIELD),
            *UNRELATED, ONE_BATCH),
    # example of a graph library: PointNet on synthetic shapes
    healthy(FAMILY, "PointNet", 0.85, lambda s: picture(s, PointNet, **POINTS)),
    # recipe with smoothed labels: 10 percent became 1.0, so that all classes are as right
    failing(FAMILY, "labels smoothed by 1", 0.6, lambda s: picture(s, conv, all_smoothed), *UNRELATED, FOLLOW, ONE_BATCH),
    # tutorial on detection with one object: boxes are shares of the image
    healthy(FAMILY, "rectangles found, their boxes as shares of the image", 0.6, lambda s: finding(s, 16.0)),
    # the same with the annotation tool's pixels, and the sigmoid is still there
    failing(FAMILY, "boxes in pixels, outputs between 0 and 1", 0.3, lambda s: finding(s, 1.0), "saturated units", "no gradients",
            "vanishing gradients", "dead units", *UNRELATED, ONE_BATCH, "sanity:initial loss"),
]  # fmt: skip
