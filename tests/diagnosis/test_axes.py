"""SanityCheck on axes: what a reshape exchanges, and over what a loss normalises; and what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnosis.problems import K, N, Task, checks, classes, load, numbers

ROW = "shapes of outputs and labels"
F_, T_ = 6, 10  # sensors and times
pytestmark = pytest.mark.filterwarnings("ignore")


def series() -> tuple[Tensor, Tensor]:
    """Sensors over time ``[n, T, F]`` and a class that one of them gives."""
    x = torch.randn(N, T_, F_, generator=numbers())
    return x, (x[:, :, 0].mean(1) > 0).long()


class Reshaped(nn.Module):
    """Convolutions over time; the axes are brought into order by a function, at the entry or behind the first layer."""

    def __init__(self, entry: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.entry, self.inner = entry, inner
        self.conv, self.gru = nn.Conv1d(F_, 8, 1), nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, K)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(self.entry(x)).relu()
        h = h.transpose(1, 2) if self.inner is None else self.inner(h)
        return self.out(self.gru(h)[0][:, -1])


def right(x: Tensor) -> Tensor:
    return x.permute(0, 2, 1)


def row(net: nn.Module, *data: Tensor, loss: Any = None) -> Any:
    criterion = loss or F.cross_entropy
    found = checks(Task(net, lambda self, b: criterion(self.net(b[0]), b[1])), load(*data))
    return found.get(ROW)


@pytest.mark.parametrize(
    ("net", "evidence"),
    [
        (
            lambda: Reshaped(lambda x: x.view(len(x), F_, T_)),
            "conv gets (16, 6, 10), with the elements in the order of",
        ),
        (lambda: Reshaped(lambda x: x.reshape(-1, F_, T_).contiguous()), "(16, 6, 10)"),
        (lambda: Reshaped(right, lambda h: h.reshape(len(h), T_, 8)), "gru gets (16, 10, 8), with the elements in"),
    ],
)
def test_axes_that_a_reshape_exchanges_are_named(net: Any, evidence: str) -> None:
    found = row(net(), *series())
    assert found is not None and found.passed is False
    assert evidence in found.evidence


class Attention(nn.Module):
    """By hand, with heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.drop, self.proj = nn.Linear(F_, 3 * F_), nn.Dropout(0.0), nn.Linear(F_, F_)
        self.out = nn.Linear(F_, K)

    def forward(self, x: Tensor) -> Tensor:
        n, t, f = x.shape
        q, k, v = (a.view(n, t, 2, f // 2).transpose(1, 2) for a in self.qkv(x).chunk(3, -1))
        weights = self.drop((q @ k.transpose(-2, -1)).softmax(-1))
        return self.out(self.proj((weights @ v).transpose(1, 2).reshape(n, t, f)).mean(1))


class Shuffled(nn.Module):
    """Groups of channels exchange their places, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Conv1d(F_, F_, 1, groups=2), nn.Conv1d(F_, F_, 1, groups=2), nn.Linear(F_, K)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x.transpose(1, 2))
        n, f, t = h.shape
        h = h.view(n, 2, f // 2, t).transpose(1, 2).reshape(n, f, t)
        return self.out(self.two(h).mean(2))


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Unflatten(1, (1, T_)), nn.Flatten(), nn.Linear(T_ * F_, K))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("net", [lambda: Reshaped(right), Attention, Shuffled, Flattened])
def test_what_moves_axes_rightly_is_no_fault(net: Any) -> None:
    found = row(net(), *series())
    assert found is None or found.passed is not False, found.evidence


def test_data_that_are_alike_in_any_order_are_not_judged() -> None:
    x, y = series()
    found = row(Reshaped(lambda x: x.view(len(x), F_, T_)), torch.zeros_like(x), y)
    assert found is None or found.passed is not False


# -- softmax over another axis ----------------------------------------------------------------------------------------


def tags() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, T_, F_, generator=numbers())
    return x, x[..., :K].argmax(-1)


def nll(axis: int, **more: Any) -> Any:
    return lambda out, y: F.nll_loss(out.log_softmax(axis).flatten(0, 1), y.flatten(), **more)


def focal(axis: int) -> Any:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        log_p = out.log_softmax(axis).gather(-1, y[..., None]).squeeze(-1)
        return -((1 - log_p.exp()) ** 2 * log_p).mean()

    return loss


@pytest.mark.parametrize("loss", [nll(1), nll(0), nll(1, weight=torch.tensor([1.0, 2.0, 3.0, 4.0])), focal(1)])
def test_a_softmax_over_time_or_samples_is_named(loss: Any) -> None:
    found = row(nn.Sequential(nn.Linear(F_, 16), nn.ReLU(), nn.Linear(16, K)), *tags(), loss=loss)
    assert found is not None and found.passed is False
    assert "and the classes are axis 2" in found.evidence


@pytest.mark.parametrize(
    "loss",
    [
        nll(2),
        focal(2),
        nll(2, weight=torch.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda out, y: F.cross_entropy(out.transpose(1, 2), y, label_smoothing=0.1),
        lambda out, y: F.binary_cross_entropy_with_logits(out, F.one_hot(y, K).float()),
        lambda out, y: (out - F.one_hot(y, K)).square().mean(),
        lambda out, y: F.multi_margin_loss(out.flatten(0, 1), y.flatten()),
        # (centred over time, and over the classes as well)
        lambda out, y: F.cross_entropy((out - out.mean(1, keepdim=True)).transpose(1, 2), y),
    ],
)
def test_losses_that_normalise_over_the_classes_or_not_at_all_pass(loss: Any) -> None:
    found = row(nn.Sequential(nn.Linear(F_, 16), nn.ReLU(), nn.Linear(16, K)), *tags(), loss=loss)
    assert found is None or found.passed is not False, found.evidence


def test_pixels_whose_classes_are_viewed_last_are_named_also_with_two_classes() -> None:
    images = torch.randn(N, 3, 8, 8, generator=numbers())
    masks = (images[:, 0] > 1).long()
    net = nn.Conv2d(3, 2, 3, padding=1)
    wrong = row(net, images, masks, loss=lambda out, y: F.cross_entropy(out.view(-1, 2), y.view(-1)))
    assert wrong is not None and wrong.passed is False
    assert wrong.evidence == "the label of one place is compared with outputs of several places, for 3 of 3 labels"
    fine = row(
        net, images, masks, loss=lambda out, y: F.cross_entropy(out.permute(0, 2, 3, 1).reshape(-1, 2), y.view(-1))
    )
    assert fine is None or fine.passed is not False


def test_contrast_within_a_batch_is_normalised_over_its_own_classes() -> None:
    x, _ = classes()

    def contrast(self: Any, batch: Any) -> Tensor:
        z = F.normalize(self.net(batch[0]), dim=1)
        other = F.normalize(self.net(batch[0] + 0.1), dim=1)
        return F.cross_entropy(10 * z @ other.T, torch.arange(len(z)))

    found = checks(Task(nn.Linear(x.shape[1], 8), contrast), load(x)).get(ROW)
    assert found is None or found.passed is not False


def test_distances_between_embeddings_are_not_a_softmax_over_samples() -> None:
    """No distance changes where all embeddings move together, so that gradients sum to 0 over the batch."""
    x, y = classes()

    def apart(self: Any, batch: Any) -> Tensor:
        z = self.net(batch[0])
        same, near = batch[1][:, None] == batch[1], torch.cdist(z, z)
        return F.relu(near[same].mean() - near[~same].mean() + 1)

    found = checks(Task(nn.Linear(x.shape[1], 8), apart), load(x, y)).get(ROW)
    assert found is None or found.passed is not False
