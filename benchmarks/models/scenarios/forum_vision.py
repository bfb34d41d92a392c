"""Image models that people asked about in forums and issue trackers, their repaired versions, and documented examples.

Rewritten from the subjects of threads and tutorials, on digits of eight by eight pixels. The comment above each scenario
says what kind of report it is from. The names were chosen so that all of them are in the develop half: these scenarios are
for development and verify nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, DOCTOR, PLAIN, Script, adam, conv, images, right, script, sgd
from benchmarks.models.trainings import Training

FAMILY = "forum vision"
TRAIN, TEST = images()
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FOLLOW, BATCH = "sanity:labels follow from inputs", "sanity:overfits one batch"
WATCHED: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy of logits."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


def picture(seed: int, model: Any = conv, loss: Any = crossed, optimizer: Any = None, **more: Any) -> Training:
    """Train on images of digits, or on the images given as ``data`` (training and test)."""
    options = {k: more.pop(k) for k in ("steps", "detectors", "gradient_clip_val") if k in more}
    train, test = more.pop("data", (TRAIN, TEST))
    kind, score = more.pop("kind", Script), more.pop("score", right(test))
    more.setdefault("val", test)
    options.setdefault("detectors", CLASSES)
    make = lambda: kind(model(), loss, optimizer or adam(2e-3), train, **more)  # noqa: E731
    return script(seed, make, score, **options)


# -- networks ---------------------------------------------------------------------------------------------------------


class Fashion(nn.Module):
    """Two convolutions and two linear layers; option: a ReLU behind each linear layer, the last one included."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()
        )
        self.fc1, self.fc2, self.last = nn.Linear(128, 50), nn.Linear(50, 10), last

    def forward(self, x: Tensor) -> Tensor:
        out = self.fc1(self.features(x))
        return F.relu(self.fc2(F.relu(out))) if self.last else self.fc2(out)


class Residual(nn.Module):
    """Fourteen residual layers with BatchNorm, whose momentum was taken over from another framework."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, 32), nn.Linear(32, 10)
        self.layers = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(14))
        self.norms = nn.ModuleList(nn.BatchNorm1d(32, momentum=momentum) for _ in range(14))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x.flatten(1))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = h + F.relu(norm(layer(h)))
        return self.leave(h)


class Transformer(nn.Module):
    """A spatial transformer before a small network; option: what the bias of the transformation starts with."""

    def __init__(self, start: tuple[float, ...] = (1, 0, 0, 0, 1, 0)) -> None:
        super().__init__()
        self.localise = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 6)
        )
        nn.init.zeros_(self.localise[-1].weight)
        self.localise[-1].bias.data.copy_(torch.tensor(start))
        self.classify = conv(norm=False)

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.localise(x).view(-1, 2, 3), list(x.shape), align_corners=False)
        return self.classify(F.grid_sample(x, grid, align_corners=False))


def pruned() -> nn.Module:
    """A wide network most of whose weights are pruned before it is trained."""
    net = nn.Sequential(nn.Flatten(), t.mlp([64, 256, 128, 10]))
    for layer in (net[1][0], net[1][2]):
        prune.random_unstructured(layer, "weight", amount=0.85)
    return net


def segmenter(channels: int = 1) -> nn.Module:
    """Three convolutions that keep the size."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, channels, 3, padding=1),
    )  # fmt: skip


class Forward(nn.Module):
    """Layers that are trained one by one on their own goodness; the label is written into the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, 128) for a in (74, 128))

    def goodness(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Mean square of each layer's output."""
        h, found = torch.cat([x.flatten(1), 3.0 * F.one_hot(y, 10)], 1), []
        for layer in self.layers:
            h = F.relu(layer(F.normalize(h.detach(), dim=1) * 8))
            found.append(h.square().mean(1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        of = [sum(self.goodness(x, torch.full((len(x),), k))) for k in range(10)]
        return torch.stack(of, 1)  # type: ignore[arg-type]


# -- losses and data --------------------------------------------------------------------------------------------------


def moved(x: Tensor, most: int, erased: float, jitter: float) -> Tensor:
    """Random shifts by up to ``most`` pixels, a share of erased pixels, and a random contrast and brightness."""
    shift = torch.randint(-most, most + 1, (2, len(x), 1))
    places = torch.arange(8) - shift
    inside = (places >= 0) & (places < 8)
    rows, columns = places.clamp(0, 7)
    samples = torch.arange(len(x))[:, None, None]
    out = x.squeeze(1)[samples, rows[:, :, None], columns[:, None]]
    out = torch.where(inside[0][:, :, None] & inside[1][:, None], out, -0.79).unsqueeze(1)
    out = out * (torch.rand(out.shape) > erased)
    return out * (1 + jitter * torch.randn(len(x), 1, 1, 1)) + jitter * torch.randn(len(x), 1, 1, 1)


def augmented(most: int, erased: float = 0.0, jitter: float = 0.0) -> Any:
    """Cross entropy of augmented images, in training only."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(s.model(moved(x, most, erased, jitter) if s.training else x), y)

    return loss


def one_logit(s: Script, batch: Any) -> Tensor:
    """One logit; the accuracy in the log is of an argmax over it, and never changes."""
    out, y = s.model(batch[0]), (batch[1] >= 5).float()
    s.log("acc", (out.argmax(1) == y).float().mean())
    return F.binary_cross_entropy_with_logits(out.squeeze(1), y)


def large(s: Any) -> Tensor:
    """Accuracy of "at least five"."""
    return ((s.model(TEST[0]).squeeze(1) > 0) == (TEST[1] >= 5)).float().mean()


torch.manual_seed(0)
NOISY_INK = tuple((x + 0.3 * torch.randn_like(x), (x.squeeze(1) > 0.7).float()) for x, _ in (TRAIN, TEST))


def turned(x: Tensor) -> Tensor:
    """All images turned by none to three quarters, each by its own."""
    turns = torch.stack([x.rot90(k, (-2, -1)) for k in range(4)])
    return turns[torch.randint(4, (len(x),)), torch.arange(len(x))]


def masked(channel: bool, turn: str = "") -> Any:
    """Squared error of a mask; options: whether the mask gets a channel, and how both are turned."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, mask = batch
        if s.training and turn == "together":
            both = turned(torch.cat([x, mask.unsqueeze(1)], 1))
            x, mask = both[:, :1], both[:, 1]
        elif s.training and turn == "apart":
            x, mask = turned(x), turned(mask)
        p = s.model(x).sigmoid()
        return F.mse_loss(p, mask.unsqueeze(1) if channel else mask)

    return loss


def overlap(s: Any) -> Tensor:
    """Intersection over union of test masks."""
    guess, mask = s.model(NOISY_INK[1][0]).squeeze(1) > 0, NOISY_INK[1][1] > 0
    return (guess & mask).sum() / (guess | mask).sum()


def spots(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with one pixel that is brighter, and where it is."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.randn(count, 1, 8, 8, generator=generator)
    mask = F.one_hot(torch.randint(64, (count,), generator=generator), 64).view(count, 8, 8)
    return x + mask.unsqueeze(1), mask


SPOTS = spots(1500, 1), spots(400, 2)


def weighted(background: float, foreground: float) -> Any:
    """Cross entropy of two classes with weights."""
    weight = torch.tensor([background, foreground])
    return lambda s, b: F.cross_entropy(s.model(b[0]), b[1], weight)


def found(s: Any) -> Tensor:
    """Share of spots that are found, less the share of the background that is taken for one."""
    guess, there = s.model(SPOTS[1][0]).argmax(1) == 1, SPOTS[1][1] == 1
    return guess[there].float().mean() - guess[~there].float().mean()


def voided(keep: float) -> tuple[Tensor, Tensor]:
    """Masks most of whose pixels are marked as unknown with 255."""
    x, mask = NOISY_INK[0]
    hidden = torch.rand(mask.shape, generator=torch.Generator().manual_seed(4)) > keep
    return x, mask.long().masked_fill(hidden, 255)


def known_pixels(s: Script, batch: Any) -> Tensor:
    """Cross entropy of the pixels that are known."""
    return F.cross_entropy(s.model(batch[0]), batch[1], ignore_index=255)


def two_channels(s: Any) -> Tensor:
    """Intersection over union by the larger of two channels."""
    guess, mask = s.model(NOISY_INK[1][0]).argmax(1) == 1, NOISY_INK[1][1] > 0
    return (guess & mask).sum() / (guess | mask).sum()


def attacked(size: float) -> Any:
    """Cross entropy of images and of images that a gradient sign was added to."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, y = batch
        if not s.training:
            return crossed(s, batch)
        x = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(s.model(x), y), x)
        worse = (x + size * slope.sign()).detach()
        return F.cross_entropy(s.model(worse), y)

    return loss


def of_bytes(x: Tensor) -> Tensor:
    """Normalise for pixels from 0 to 255 what is between 0 and 1."""
    return (x * 0.38 + 0.3 - 127.5) / 127.5


BYTES = (of_bytes(TRAIN[0]), TRAIN[1]), (of_bytes(TEST[0]), TEST[1])


class ByClass(Script):
    """A sampler whose weights are those of ten classes, so that it knows of ten samples."""

    def train_dataloader(self) -> Any:
        weights = (1 / torch.bincount(self.train_data[1]).float()).tolist()
        sampler = WeightedRandomSampler(weights, len(self.train_data[1]))
        return DataLoader(TensorDataset(*self.train_data), self.batch, sampler=sampler)


class SameCrops(Script):
    """Augmentation that draws the same numbers in each epoch, since its generator is seeded in the worker."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state = torch.get_rng_state()
        torch.manual_seed(batch_idx)
        x = moved(batch[0], 1, 0.1, 0.1)
        torch.set_rng_state(state)
        loss = self.compute(self, (x, batch[1]))
        self.log("loss", loss)
        return loss


def by_layers(s: Script, batch: Any) -> Tensor:
    """Each layer tells the right label from a wrong one by its goodness."""
    x, y = batch
    wrong = (y + torch.randint(1, 10, y.shape)) % 10
    pairs = zip(s.model.goodness(x, y), s.model.goodness(x, wrong), strict=True)
    return sum(F.softplus(torch.cat([2.0 - good, bad - 2.0])).mean() for good, bad in pairs)  # type: ignore[return-value]


INK: dict[str, Any] = {"model": segmenter, "data": NOISY_INK, "score": overlap, "detectors": WATCHED}

SCENARIOS: list[Scenario] = [
    # Stack Overflow: accuracy on FashionMNIST falls when a ReLU is put behind the last linear layers
    failing(FAMILY, "a ReLU behind the last linear layer too", 0.9,
            lambda s: picture(s, lambda: Fashion(True), optimizer=adam(0.03)),
            "dead units", *UNRELATED, "no gradients", "sanity:units are alive", BATCH, "learning rate too high"),
    # the repaired code of the same thread
    healthy(FAMILY, "linear layers, no ReLU at the end", 0.9, lambda s: picture(s, lambda: Fashion(False))),
    # blog post on a loss of cats and dogs that stays at 0.69: too many augmentations at once
    failing(FAMILY, "augmented until nothing is left", 0.8,
            lambda s: picture(s, lambda: conv(norm=False), augmented(7, 0.7, 1.0), sgd(0.01)), *UNRELATED, FOLLOW, BATCH),
    # the repaired code of the same post
    healthy(FAMILY, "crops and jitter, few of them", 0.85, lambda s: picture(s, loss=augmented(1, 0.1, 0.1), steps=400)),
    # Stack Overflow: the loss falls and the accuracy stays at 50 %, since it is an argmax over one output
    healthy(FAMILY, "one logit whose argmax is logged", 0.85,
            lambda s: picture(s, lambda: conv(1), one_logit, score=large, detectors=WATCHED)),
    # lesson on segmentation: masks [n, h, w] against outputs [n, 1, h, w], a warning and a blurred mean
    failing(FAMILY, "masks without a channel", 0.6, lambda s: picture(s, loss=masked(False), **INK), *UNRELATED,
            "sanity:shapes of outputs and labels", FOLLOW, BATCH),
    # the repaired code of the same lesson
    healthy(FAMILY, "masks with a channel", 0.7, lambda s: picture(s, loss=masked(True), optimizer=adam(5e-3), **INK)),
    # PyTorch forum: random rotations of torchvision drawn apart for images and for masks
    failing(FAMILY, "images and masks turned apart", 0.65, lambda s: picture(
        s, loss=masked(True, "apart"), optimizer=adam(5e-3), **INK), *UNRELATED, FOLLOW),
    # the repaired code of the same question: one draw for both
    healthy(FAMILY, "one turn for an image and its mask", 0.65, lambda s: picture(
        s, loss=masked(True, "together"), optimizer=adam(5e-3), **INK)),
    # PyTorch forum: the U-Net predicts the background everywhere; weights of the classes in the wrong order
    failing(FAMILY, "bright spots, weights of classes swapped", 0.4, lambda s: picture(
        s, lambda: segmenter(2), weighted(30.0, 1.0), adam(5e-3), data=SPOTS, score=found), "prediction collapse", "inputs ignored"),
    # the repaired code of the same question
    healthy(FAMILY, "bright spots, weights of classes", 0.5, lambda s: picture(
        s, lambda: segmenter(2), weighted(1.0, 30.0), adam(5e-3), data=SPOTS, score=found)),
    # PyTorch forum: high accuracy in train(), chance in eval(); a momentum of BatchNorm in Keras's meaning
    failing(FAMILY, "running statistics that never arrive", 0.7, lambda s: picture(s, lambda: Residual(1e-5)),
            "overfitting", "prediction collapse", "evaluation differs"),
    # question on accuracies that jump with BatchNorm: a momentum of 0.99 keeps the last batch only
    healthy(FAMILY, "eval() with the last batch's statistics", 0.8, lambda s: picture(
        s, lambda: Residual(0.99), optimizer=adam(1e-3), batch=64, steps=400)),
    # PyTorch tutorial on spatial transformers: the last layer starts with zeros and the identity
    healthy(FAMILY, "a spatial transformer on moved digits", 0.8, lambda s: picture(
        s, Transformer, augmented(1), adam(3e-3), detectors=PLAIN, steps=400)),
    # PyTorch forum on that tutorial: the bias was set to zeros too, every pixel is the middle of the image; it recovers
    healthy(FAMILY, "a spatial transformer that starts at zero", 0.8, lambda s: picture(
        s, lambda: Transformer((0,) * 6), augmented(1), adam(3e-3), detectors=PLAIN)),
    # PyTorch tutorial on adversarial examples, used for training: the loss stays high
    healthy(FAMILY, "trained on attacked digits", 0.85, lambda s: picture(s, loss=attacked(0.3), optimizer=adam(3e-3))),
    # PyTorch tutorial on pruning: most weights are 0 and stay so
    healthy(FAMILY, "85 % of the weights pruned", 0.85, lambda s: picture(s, pruned, optimizer=sgd(0.05))),
    # PyTorch forum: Normalize with statistics of bytes behind ToTensor, which had divided by 255
    failing(FAMILY, "statistics of bytes for images between 0 and 1", 0.7, lambda s: picture(
        s, lambda: conv(norm=False), optimizer=sgd(1e-3), data=BYTES), *UNRELATED, "sanity:inputs matter", BATCH),
    # the same question: somebody's BatchNorm undoes it
    healthy(FAMILY, "images as if bytes, BatchNorm first", 0.85, lambda s: picture(
        s, lambda: nn.Sequential(nn.BatchNorm2d(1), conv(norm=False)), data=BYTES)),
    # PyTorch forum: WeightedRandomSampler wants a weight for each sample, it got one for each class
    failing(FAMILY, "a sampler with one weight per class", 0.8, lambda s: picture(s, kind=ByClass), "overfitting",
            "sanity:data are shuffled", "prediction collapse"),
    # blog post on NumPy's seeds in DataLoader workers: the same augmentations in each epoch
    healthy(FAMILY, "the same crops in every epoch", 0.85, lambda s: picture(s, kind=SameCrops)),
    # PyTorch forum: ignore_index=255 where most pixels are not annotated
    healthy(FAMILY, "masks that are mostly void", 0.65, lambda s: picture(
        s, lambda: segmenter(2), known_pixels, adam(5e-3), data=(voided(0.1), NOISY_INK[1]), score=two_channels, val=(), detectors=WATCHED)),
    # keras.io example of the forward-forward algorithm: no gradient passes from layer to layer
    healthy(FAMILY, "the forward-forward algorithm", 0.75, lambda s: picture(
        s, Forward, by_layers, adam(3e-3), batch=64, steps=500, detectors=DOCTOR)),
]  # fmt: skip
