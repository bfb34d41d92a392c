"""SanityCheck on outputs and labels: a label is compared with one place, and outputs can reach their labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.output_labels import beyond
from lightning_tricks.diagnosis.sanity import OUT_OF_REACH
from tests.diagnosis.problems import Task, checks, load, numbers

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPES, REACH = "shapes of outputs and labels", "labels are within reach"
WORDS, LENGTH, TAGS, SIDE = 12, 6, 4, 5


class Tagger(nn.Module):
    """Scores of tags for each word ``[n, T, K]``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, TAGS)
        self.body = nn.GRU(16, 16, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.body(self.embed(words))[0])


def sentences() -> Any:
    words = torch.randint(WORDS, (96, LENGTH), generator=numbers())
    return load(words, words % TAGS)


def pictures() -> Any:
    images = torch.randn(64, 1, SIDE, SIDE, generator=numbers())
    return load(images, (images[:, 0] > 0).long() + (images[:, 0] > 1).long())


def focal(logits: Tensor, tags: Tensor) -> Tensor:
    likelihood = -F.cross_entropy(logits, tags, reduction="none")
    return -((1 - likelihood.exp()) ** 2 * likelihood).mean()


RIGHT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "permute": lambda out, y: F.cross_entropy(out.permute(0, 2, 1), y),
    "flattened": lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()),
    "reshape of both": lambda out, y: F.cross_entropy(out.reshape(-1, TAGS), y.reshape(-1)),
    "smoothed": lambda out, y: F.cross_entropy(out.transpose(1, 2), y, label_smoothing=0.1),
    "weighted": lambda out, y: F.cross_entropy(out.transpose(1, 2), y, weight=torch.tensor([1.0, 5.0, 1.0, 1.0])),
    "focal": lambda out, y: focal(out.movedim(-1, 1), y),
    "some left out": lambda out, y: F.cross_entropy(out.transpose(1, 2), torch.where(y == 3, -100, y)),
}
WRONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "view": lambda out, y: F.cross_entropy(out.view(len(out), TAGS, -1), y),
    "view, smoothed": lambda out, y: F.cross_entropy(out.view(len(out), TAGS, -1), y, label_smoothing=0.1),
    "view, focal": lambda out, y: focal(out.view(len(out), TAGS, -1), y),
    "labels by time, outputs by sample": lambda out, y: F.cross_entropy(out.reshape(-1, TAGS), y.T.reshape(-1)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_each_label_is_compared_with_the_output_of_its_place_however_that_is_written(name: str) -> None:
    found = checks(Task(Tagger(), lambda self, b: RIGHT[name](self.net(b[0]), b[1])), sentences())
    assert SHAPES not in found or found[SHAPES].passed is not False


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_meet_the_outputs_of_other_places_fail(name: str) -> None:
    found = checks(Task(Tagger(), lambda self, b: WRONG[name](self.net(b[0]), b[1])), sentences())
    assert found[SHAPES].passed is False, found[SHAPES]


def test_images_whose_classes_are_viewed_to_the_front_fail_and_convolutions_do_not() -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(1, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.movedim(1, -1))  # classes last

    right = Task(Pixels(), lambda self, b: F.cross_entropy(self.net(b[0]), b[1]))
    wrong = Task(Dense(), lambda self, b: F.cross_entropy(self.net(b[0]).reshape(-1, 3, SIDE, SIDE), b[1]))
    moved = Task(Dense(), lambda self, b: F.cross_entropy(self.net(b[0]).movedim(-1, 1), b[1]))
    found = [checks(module, pictures()).get(SHAPES) for module in (right, wrong, moved)]
    assert [None if f is None else f.passed for f in found] == [None, False, None]


def numbers_to_learn(kind: str) -> Tensor:
    x = torch.randn(96, 3, generator=numbers())
    return {"standardised": x, "pixels": 20 * x.abs() + 1, "shares": x.sigmoid(), "counts": (3 * x).clamp(min=0)}[kind]


def regression(activation: nn.Module, kind: str, scale: float = 1.0, rate: float = 0.03) -> Any:
    x = torch.randn(96, 3, generator=numbers())
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3), activation)
    return checks(
        Task(net, lambda self, b: F.smooth_l1_loss(self.net(b[0]), b[1] / scale), rate), load(x, numbers_to_learn(kind))
    )


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        *((nn.Sigmoid(), "pixels"), (nn.Tanh(), "pixels"), (nn.ReLU(), "standardised"), (nn.Sigmoid(), "standardised")),
        *((nn.Hardsigmoid(), "pixels"), (nn.Hardtanh(), "pixels"), (nn.Hardtanh(0.0, 2.0), "pixels")),
    ],
)
def test_outputs_that_cannot_reach_their_labels_fail(activation: nn.Module, kind: str) -> None:
    found = regression(activation, kind)[REACH]
    assert found.passed is False
    assert type(activation).__name__.lower() in found.evidence


@pytest.mark.parametrize(
    ("activation", "kind", "scale"),
    [
        (nn.Sigmoid(), "shares", 1.0),
        (nn.Sigmoid(), "pixels", 100.0),  # scaled in the step
        (nn.ReLU(), "counts", 1.0),
        (nn.ReLU(), "pixels", 1.0),
        (nn.Tanh(), "shares", 1.0),
        (nn.ReLU6(), "pixels", 20.0),
        (nn.Hardtanh(0.0, 100.0), "pixels", 1.0),
    ],
)
def test_outputs_that_can_reach_their_labels_pass(activation: nn.Module, kind: str, scale: float) -> None:
    assert regression(activation, kind, scale)[REACH].passed is True


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_noise_about_an_end_of_the_range_is_not_out_of_reach(activation: Any, noise: float) -> None:
    """As of a measurement where there is nothing, or of noisy images: what a sound network answers lies at the end."""
    x = torch.randn(96, 3, generator=numbers())
    what_is = (x - 0.3).clamp(min=0, max=1 if activation is nn.Sigmoid else None)
    size = noise * float(what_is.std())
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3), activation())
    data = load(x, what_is + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(7)))
    found = checks(Task(net, lambda self, b: F.mse_loss(self.net(b[0]), b[1]), 0.03), data)
    assert found[REACH].passed is True


@pytest.mark.parametrize("skewed", [False, True])
def test_standardised_labels_are_beyond_a_relu_however_skewed_they_are(skewed: bool) -> None:
    labels = torch.randn(512, generator=numbers())
    labels = labels.exp() if skewed else labels
    assert beyond((labels - labels.mean()) / labels.std(), (0.0, float("inf"))) > OUT_OF_REACH


@pytest.mark.parametrize("scaled", [True, False])
def test_stars_behind_a_sigmoid_are_beyond_it_before_any_update(scaled: bool) -> None:
    """A rate with which forty updates bring no output to its end."""
    x, stars = torch.randn(96, 3, generator=numbers()), torch.randint(1, 6, (96,), generator=numbers()).float()

    def step(self: Any, b: Any) -> Tensor:
        return F.mse_loss(self.net(b[0]).squeeze(1), (b[1] - 1) / 4 if scaled else b[1])

    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    found = checks(Task(net, step, 1e-4), load(x, stars))
    assert found[REACH].passed is scaled
    if not scaled:
        assert "of the labels are beyond what sigmoid can give" in found[REACH].evidence


def test_black_and_white_images_of_an_autoencoder_are_reached_as_nearly_as_one_likes() -> None:
    images = (torch.rand(96, 16, generator=numbers()) - 0.5).clamp(min=0) * 2
    images[:, :8] = images[:, :8].round()
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Sigmoid())
    found = checks(
        Task(net, lambda self, b: F.binary_cross_entropy(self.net(b[0]), b[1]), 0.05), load(images, images.clone())
    )
    assert REACH not in found or found[REACH].passed is True


def test_outputs_without_an_end_are_not_asked() -> None:
    assert REACH not in regression(nn.Identity(), "standardised")
