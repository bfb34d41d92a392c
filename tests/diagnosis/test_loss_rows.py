"""SanityCheck on the rows that a loss compares: samples and noise at other places, and healthy look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks.diagnosis.loss_rows import Rows, mutual
from tests.diagnosis.problems import D, K, Task, classes, failed_of, load, mlp

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPES, FOLLOW = "shapes of outputs and labels", "labels follow from inputs"
X, Y = classes()
STEPS = X.cumsum(0) / 10

Step = Callable[[Any, Any], Tensor]


def order(rows: int) -> Tensor:
    return torch.randperm(rows)


class Sorted(nn.Module):
    """A GRU on packed sequences that are sorted by length, and sorted back or not."""

    def __init__(self, back: bool) -> None:
        super().__init__()
        self.back, self.gru, self.out = back, nn.GRU(1, 8, batch_first=True), nn.Linear(8, K)

    def forward(self, x: Tensor) -> Tensor:
        lengths, order = (1 + (10 * x[:, 0].abs()).long() % D).sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(x[order, :, None], lengths, batch_first=True)
        h = self.gru(packed)[1][0]
        return self.out(h[order.argsort()] if self.back else h)  # type: ignore[no-any-return]


class Student(nn.Module):
    """Beside a teacher, or a target network."""

    def __init__(self, out: int = K, *, zero_head: bool = False) -> None:
        super().__init__()
        self.own, self.teacher = mlp(out), mlp(out).requires_grad_(False)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(out, out))
        if zero_head:
            nn.init.zeros_(self.own[2].weight)  # type: ignore[index, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x)  # type: ignore[no-any-return]


def mixed(self: Any, b: Any, kind: str) -> Tensor:
    j, share = order(len(b[0])), 0.7
    if kind == "switched off":  # as of a cut of no size
        logits = self.net(b[0])
        return F.cross_entropy(logits, b[1]) + 0 * F.cross_entropy(logits, b[1][j])
    logits = self.net(share * b[0] + (1 - share) * b[0][j])
    if kind == "soft":
        one, two = (F.one_hot(y, K).float() for y in (b[1], b[1][j]))
        return F.cross_entropy(logits, share * one + (1 - share) * two)
    return share * F.cross_entropy(logits, b[1]) + (1 - share) * F.cross_entropy(logits, b[1][j])


def distilled(self: Any, b: Any, shuffled: bool) -> Tensor:
    told = self.net.teacher(b[0]).softmax(1)
    return F.kl_div(self.net(b[0]).log_softmax(1), told[order(len(told))] if shuffled else told, reduction="batchmean")


def restored(self: Any, b: Any, shuffled: bool) -> Tensor:
    return F.mse_loss(self.net(b[0]), b[0][order(len(b[0]))] if shuffled else b[0])


def both_ways(self: Any, b: Any, halves: Callable[[Tensor], Tensor]) -> Tensor:
    return F.mse_loss(self.net.head(self.net(b[0])), halves(self.net.teacher(b[0])))


def stacked(rows: Any) -> Any:
    x = torch.stack([row[0] for row in rows])
    return (torch.cat([x + 0.1 * torch.randn_like(x) for _ in range(2)]),)


def in_turn(rows: Any) -> Any:
    x = torch.stack([row[0] for row in rows]).repeat_interleave(2, 0)
    return (x + 0.1 * torch.randn_like(x),)


def series() -> Any:
    return DataLoader(TensorDataset(STEPS), 16)


WRONG: dict[str, tuple[Callable[[], nn.Module], Step, Any]] = {
    "labels in another order": (
        mlp,
        lambda s, b: F.cross_entropy(s.net(b[0]), b[1][order(len(b[1]))]),
        load(X, Y),
    ),
    "inputs in another order": (mlp, lambda s, b: F.cross_entropy(s.net(b[0][order(len(b[0]))]), b[1]), load(X, Y)),
    "sequences sorted by length": (
        lambda: Sorted(False),
        lambda s, b: F.cross_entropy(s.net(b[0]), b[1]),
        load(X, Y),
    ),
    "a teacher's answers": (Student, lambda s, b: distilled(s, b, True), load(X)),
    "a head of zeros": (lambda: Student(zero_head=True), lambda s, b: distilled(s, b, True), load(X)),
    "what is to be restored": (lambda: mlp(D), lambda s, b: restored(s, b, True), load(X)),
}
RIGHT: dict[str, tuple[Callable[[], nn.Module], Step, Any]] = {
    "labels": (mlp, lambda s, b: F.cross_entropy(s.net(b[0]), b[1]), load(X, Y)),
    "both in another order": (
        mlp,
        lambda s, b: (lambda j: F.cross_entropy(s.net(b[0][j]), b[1][j]))(order(len(b[0]))),
        load(X, Y),
    ),
    "sequences sorted by length and back": (
        lambda: Sorted(True),
        lambda s, b: F.cross_entropy(s.net(b[0]), b[1]),
        load(X, Y),
    ),
    "a teacher's answers": (Student, lambda s, b: distilled(s, b, False), load(X)),
    "what is to be restored": (lambda: mlp(D), lambda s, b: restored(s, b, False), load(X)),
    "mixtures and two losses": (mlp, lambda s, b: mixed(s, b, "two"), load(X, Y)),
    "mixtures and soft labels": (mlp, lambda s, b: mixed(s, b, "soft"), load(X, Y)),
    "mixtures that are switched off": (mlp, lambda s, b: mixed(s, b, "switched off"), load(X, Y)),
    "two views, stacked": (
        Student,
        lambda s, b: both_ways(s, b, lambda z: z.roll(len(z) // 2, 0)),
        load(X, collate=stacked),
    ),
    "two views in turn": (
        Student,
        lambda s, b: both_ways(s, b, lambda z: z.view(-1, 2, K).flip(1).reshape(-1, K)),
        load(X, collate=in_turn),
    ),
    "the next row of a series": (lambda: mlp(D), lambda s, b: F.mse_loss(s.net(b[0][:-1]), b[0][1:]), series()),
    "the next row, the last one again": (
        lambda: mlp(D),
        lambda s, b: F.mse_loss(s.net(b[0]), torch.cat([b[0][1:], b[0][-1:]])),
        series(),
    ),
    "the next row, and the first after the last": (
        lambda: mlp(D),
        lambda s, b: F.mse_loss(s.net(b[0]), b[0].roll(-1, 0)),
        series(),
    ),
    "values of what comes next": (
        lambda: mlp(1),
        lambda s, b: F.mse_loss(s.net(b[0]), b[0][:, :1] + 0.9 * s.net(b[0]).detach().roll(-1, 0)),
        load(X),
    ),
    "a contrast whose answer is the place": (
        mlp,
        lambda s, b: F.cross_entropy(s.net(b[0]) @ s.net(b[0] + 0.1).T, torch.arange(len(b[0]))),
        load(X),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_belong_to_other_samples_fail(name: str) -> None:
    make, step, data = WRONG[name]
    assert "of its target" in failed_of("initial_loss", Task(make(), step), data).get(SHAPES, "")


@pytest.mark.parametrize("name", RIGHT)
def test_rows_that_belong_together_are_left_alone(name: str) -> None:
    make, step, data = RIGHT[name]
    assert SHAPES not in failed_of("initial_loss", Task(make(), step), data)


@pytest.mark.parametrize("rows", [8, 12])
def test_only_an_exchange_in_turn_or_by_one_place_is_mutual(rows: int) -> None:
    def compared(partner: list[int]) -> list[Rows]:
        return [Rows(frozenset({i}), frozenset({partner[i]})) for i in range(rows)]

    half = rows // 2
    assert mutual(compared([(i + half) % rows for i in range(rows)]))
    assert mutual(compared([i ^ 1 for i in range(rows)]))
    assert mutual(compared([(i + 1) % rows for i in range(rows)]))
    assert not mutual(compared([(i + 3) % rows for i in range(rows)]))


# -- noise ------------------------------------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """Tells noise from a noisy row and its time; the last layer may begin at zero."""

    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.net = mlp(D, D + 1)
        if zero:
            for p in self.net[2].parameters():  # type: ignore[index]
                nn.init.zeros_(p)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(torch.cat([x, time], 1))  # type: ignore[no-any-return]


def noisy(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    time = torch.rand(len(x), 1)
    return (1 - time).sqrt() * x + time.sqrt() * noise, time


def told(compared: Callable[[Tensor], Tensor], loss: Any = F.mse_loss) -> Step:
    def step(self: Any, b: Any) -> Tensor:
        noise = torch.randn_like(b[0])
        return loss(self.net(*noisy(b[0], noise)), compared(noise))

    return step


def clean(self: Any, b: Any) -> Tensor:
    noise = torch.randn(b[0].shape)
    return F.mse_loss(self.net(b[0], torch.rand(len(b[0]), 1)), noise)


def weighted(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target, reduction="none").mean(1).mean()


def velocity(self: Any, b: Any) -> Tensor:
    noise = torch.randn_like(b[0])
    return F.mse_loss(self.net(*noisy(b[0], noise)), b[0] - noise)


def twice_noisy(self: Any, b: Any) -> Tensor:
    seen = b[0] + torch.randn_like(b[0])
    return F.mse_loss(self.net(seen, seen[:, :1]), b[0] + torch.randn_like(b[0]))


def drawn_to_normal(self: Any, b: Any) -> Tensor:
    z = self.net(b[0], b[0][:, :1])
    return F.mse_loss(z, b[0]) + 0.1 * F.mse_loss(z, torch.randn_like(z))


def beside_an_own_formula(self: Any, b: Any) -> Tensor:
    z = self.net(b[0], b[0][:, :1])
    return (z - b[0]).square().mean() + 0.1 * F.mse_loss(z, torch.randn_like(z))


def smoothed(self: Any, b: Any) -> Tensor:
    return F.mse_loss(self.net(b[0], b[0][:, :1]), torch.empty_like(b[0]).uniform_(0.7, 1.2))


NOISE_WRONG: dict[str, tuple[Step, str]] = {
    "drawn again": (told(torch.randn_like), "does not depend on"),
    "drawn again, absolute errors": (told(torch.randn_like, F.l1_loss), "does not depend on"),
    "drawn again, weighted": (told(torch.randn_like, weighted), "does not depend on"),
    "drawn again in place": (told(lambda noise: torch.empty_like(noise).normal_()), "does not depend on"),
    "never added": (clean, "does not depend on"),
    "rolled": (told(lambda noise: noise.roll(1, 0)), "of other samples"),
    "turned round": (told(lambda noise: noise.flip(0)), "of other samples"),
}
NOISE_RIGHT: dict[str, Step] = {
    "the noise": told(lambda noise: noise),
    "the noise, absolute errors": told(lambda noise: noise, F.smooth_l1_loss),
    "the noise, weighted": told(lambda noise: noise, weighted),
    "a velocity": velocity,
    "other noise on the target": twice_noisy,
    "a term beside the loss": drawn_to_normal,
    "a term beside an own formula": beside_an_own_formula,
    "labels of a discriminator, smoothed": smoothed,
}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", NOISE_WRONG)
def test_noise_that_cannot_be_told_fails(name: str, zero: bool) -> None:
    step, words = NOISE_WRONG[name]
    assert words in failed_of("overfit_batch", Task(Denoiser(zero), step), load(X)).get(FOLLOW, "")


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", NOISE_RIGHT)
def test_noise_that_can_be_told_and_noise_beside_it_is_left_alone(name: str, zero: bool) -> None:
    found = failed_of("overfit_batch", Task(Denoiser(zero), NOISE_RIGHT[name]), load(X))
    assert FOLLOW not in found


def test_a_model_that_does_not_depend_on_anything_tells_nothing_about_its_noise() -> None:
    net = Denoiser(True)
    task = Task(net, told(torch.randn_like), lr=0.0)
    assert FOLLOW not in failed_of("overfit_batch", task, load(X))
