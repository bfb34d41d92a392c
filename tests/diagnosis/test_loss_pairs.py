"""SanityCheck on triplets and pairs: exchanged ones, and healthy ones of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.loss_pairs import exchanged, reversed_pairs
from tests.diagnosis.problems import D, N, Task, classes, failed_of, load, numbers

pytestmark = pytest.mark.filterwarnings("ignore")
ROW = "labels follow from inputs"
X, Y = classes()
CAMERA = torch.randint(2, (N,), generator=numbers(5))
PARTNER = torch.randperm(N, generator=numbers(6))
SIGN = (Y[PARTNER] == Y).float() * 2 - 1

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Step = Callable[[Any, Any], Tensor]


def encoder(norm: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(D, 24), nn.BatchNorm1d(24) if norm else nn.Identity(), nn.ReLU(), nn.Linear(24, 8))


def swapped(loss: Loss) -> Loss:
    return lambda anchor, positive, negative: loss(anchor, negative, positive)


def with_distance(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    distance = lambda a, b: 1 - F.cosine_similarity(a, b)  # noqa: E731
    return nn.TripletMarginWithDistanceLoss(distance_function=distance)(anchor, positive, negative)


def hardest(loss: Loss, unit: bool = False) -> Step:
    """The farthest of the same class and the nearest of another one."""

    def step(self: Any, b: Any) -> Tensor:
        z = F.normalize(self.net(b[0]), dim=1) if unit else self.net(b[0])
        same, apart = b[1][:, None] == b[1], torch.cdist(z, z)
        near = (apart * (same & ~torch.eye(len(z), dtype=torch.bool))).argmax(1)
        return loss(z, z[near], z[(apart + 1e6 * same).argmin(1)])

    return step


def views(loss: Loss) -> Step:
    """Two views of a sample, and another sample."""

    def step(self: Any, b: Any) -> Tensor:
        one, two = (self.net(b[0] + 0.1 * torch.randn_like(b[0])) for _ in range(2))
        return loss(one, two, two.roll(1, 0))

    return step


def across(self: Any, b: Any) -> Tensor:
    """The same class seen by another camera, against another class that was seen by the same one."""
    z, same, seen = self.net(b[0]), b[1][:, None] == b[1], b[2][:, None] == b[2]
    apart = torch.cdist(z, z)
    near, far = (apart + 1e6 * ~(same & ~seen)).argmin(1), (apart + 1e6 * ~(~same & seen)).argmin(1)
    return F.triplet_margin_loss(z, z[near], z[far])


def drawn(sign: int, kind: str) -> Step:
    """Pairs of the batch by lot; the label is 1 for the same class."""

    def step(self: Any, b: Any) -> Tensor:
        z, other = self.net(b[0]), torch.randperm(len(b[0]))
        same = sign * ((b[1] == b[1][other]).float() * 2 - 1)
        if kind == "cosine":
            return F.cosine_embedding_loss(z, z[other], same, margin=0.2)
        return F.hinge_embedding_loss(F.pairwise_distance(z, z[other]), same)

    return step


def columns(sign: int) -> Step:
    return lambda s, b: nn.CosineEmbeddingLoss()(s.net(b[0]), s.net(b[1]), sign * b[2])


TRIPLET = F.triplet_margin_loss
WRONG: dict[str, tuple[Step, tuple[Tensor, ...], str]] = {
    "hardest triplets": (hardest(swapped(TRIPLET)), (X, Y), "negatives of triplet_margin_loss belong"),
    "hardest triplets of unit vectors": (hardest(swapped(TRIPLET), True), (X, Y), "negatives"),
    "another distance": (hardest(swapped(with_distance)), (X, Y), "triplet_margin_with_distance_loss"),
    "views without labels": (views(swapped(TRIPLET)), (X,), "negatives"),
    "labels in a column": (
        lambda s, b: hardest(swapped(TRIPLET))(s, (b[0], b[1].squeeze(1))),
        (X, Y[:, None]),
        "negatives",
    ),
    "the anchor itself": (lambda s, b: views(lambda a, p, n: TRIPLET(a, p, a))(s, b), (X,), "is the anchor itself"),
    "cosines": (drawn(-1, "cosine"), (X, Y), "cosine_embedding_loss is given 1 for pairs of different"),
    "hinges": (drawn(-1, "hinge"), (X, Y), "hinge_embedding_loss is given 1 for pairs of different"),
    "columns and their classes": (columns(-1), (X, X[PARTNER], SIGN, Y, Y[PARTNER]), "cosine_embedding_loss"),
}
RIGHT: dict[str, tuple[Step, tuple[Tensor, ...]]] = {
    "hardest triplets": (hardest(TRIPLET), (X, Y)),
    "hardest triplets of unit vectors": (hardest(TRIPLET, True), (X, Y)),
    "another distance": (hardest(with_distance), (X, Y)),
    "views without labels": (views(TRIPLET), (X,)),
    "views, and labels that have no part": (views(TRIPLET), (X, CAMERA)),
    "other cameras": (across, (X, Y, CAMERA)),
    "columns of triplets": (
        lambda s, b: TRIPLET(s.net(b[0]), s.net(b[1]), s.net(b[2])),
        (X, X + 0.1, X[PARTNER], Y),
    ),
    "columns of triplets, exchanged: there is no label": (
        lambda s, b: TRIPLET(s.net(b[0]), s.net(b[2]), s.net(b[1])),
        (X, X + 0.1, X[PARTNER]),
    ),
    "negatives that were shuffled before": (
        lambda s, b: TRIPLET(s.net(b[0]), s.net(b[0] + 0.1), s.net(b[0][torch.randperm(len(b[0]))])),
        (X,),
    ),
    "cosines": (drawn(1, "cosine"), (X, Y)),
    "hinges": (drawn(1, "hinge"), (X, Y)),
    "columns and their classes": (columns(1), (X, X[PARTNER], SIGN, Y, Y[PARTNER])),
    "columns and a genre": (columns(1), (X, X[PARTNER], SIGN, CAMERA)),
    "columns, reversed: there is no label": (columns(-1), (X, X[PARTNER], SIGN)),
}


def failed(step: Step, data: tuple[Tensor, ...]) -> str:
    return failed_of("overfit_batch", Task(encoder(), step), load(*data)).get(ROW, "")


@pytest.mark.parametrize("name", WRONG)
def test_pairs_that_are_exchanged_fail(name: str) -> None:
    step, data, words = WRONG[name]
    assert words in failed(step, data)


@pytest.mark.parametrize("name", RIGHT)
def test_pairs_that_may_be_meant_are_left_alone(name: str) -> None:
    step, data = RIGHT[name]
    found = failed(step, data)
    assert "negative" not in found and "pairs of" not in found


def test_samples_that_depend_on_the_whole_batch_tell_nothing() -> None:
    def step(self: Any, b: Any) -> Tensor:
        z = self.net(b[0])
        return hardest(swapped(TRIPLET))(Task(nn.Identity(), lambda s, b: b), (z - z.mean(0), b[1]))

    assert "negatives" not in failed(step, (X, Y))


@pytest.mark.parametrize("seed", range(10))
def test_exchanged_triplets_are_told_by_the_labels_one_by_one(seed: int) -> None:
    g = numbers(seed)
    label = torch.randint(3, (12,), generator=g)
    anchors = torch.randperm(12, generator=g)[:6].tolist()
    same = [next((j for j in range(12) if label[j] == label[i] and j != i), i) for i in anchors]
    other = [next(j for j in range(12) if label[j] != label[i]) for i in anchors]
    a, p, n = ([(0, i) for i in rows] for rows in (anchors, same, other))
    assert exchanged(a, n, p, [label]) and not exchanged(a, p, n, [label])
    assert not exchanged(a, n[:-1] + p[-1:], p, [label])  # (one is right)
    assert not exchanged(a, n, p, []) or all(i == j for i, j in zip(anchors, same, strict=True))
    assert not exchanged(a[:3], n[:3], p[:3], [label])
    signs = [bool(label[i] == label[j]) for i, j in zip(anchors, [*same[:3], *other[3:]], strict=True)]
    mixed = p[:3] + n[3:]
    assert reversed_pairs(a, mixed, [not sign for sign in signs], [label])
    assert not reversed_pairs(a, mixed, signs, [label])
    assert not reversed_pairs(a, mixed, [True] * 6, [label])
    # (a label by which the signs are right is enough to say nothing)
    assert not reversed_pairs(a, mixed, [not s for s in signs], [label, _told_by(anchors, mixed, signs)])


def _told_by(anchors: list[int], others: list[tuple[int, int]], signs: list[bool]) -> Tensor:
    """A label by which pairs are of one kind exactly where the signs are False, if there is one."""
    for seed in range(20000):
        label = torch.randint(4, (12,), generator=numbers(seed))
        same = [bool(label[i] == label[j]) for i, (_, j) in zip(anchors, others, strict=True)]
        if same == [not sign for sign in signs]:
            return label
    pytest.skip("no such label")
