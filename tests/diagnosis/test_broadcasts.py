"""SanityCheck on columns that meet rows inside of a step: mistakes beside losses that are about pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.broadcasts import Meetings
from tests.diagnosis.problems import Task, checks, load

pytestmark = pytest.mark.filterwarnings("ignore")

ROW = "shapes of outputs and labels"
SAMPLES, WIDTH = 96, 6
Step = Callable[[Any, Any], Tensor]


class Values(Task):
    """Two networks of one number each, a table of numbers, and as many centres as there are samples in a batch."""

    def __init__(self, step: Any) -> None:
        super().__init__(nn.Linear(WIDTH, 1), step)
        self.other, self.table = nn.Linear(WIDTH, 1), nn.Embedding(SAMPLES, 1)
        self.policy = nn.Linear(WIDTH, 3)
        self.register_buffer("centres", torch.linspace(-1, 1, 16))


def shapes(step: Step) -> list[Any]:
    """Return what SanityCheck fails of shapes for rows, a number [n], a column [n, 1] and ids [n]."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, WIDTH, generator=generator)
    y = x[:, 0] + 0.1 * torch.randn(SAMPLES, generator=generator)
    weights = torch.rand(SAMPLES, 1, generator=generator)
    rows = checks(Values(step), load(x, y, weights, torch.arange(SAMPLES)))
    return [check for name, check in rows.items() if name == ROW and check.passed is False]


def rewarded(self: Any, b: Any) -> Tensor:
    """A policy gradient, rewards as a column."""
    chosen = torch.distributions.Categorical(logits=self.policy(b[0]))
    action = chosen.sample()
    reward = (action == 1).float() + b[1]
    return -(chosen.log_prob(action) * (reward - reward.mean())[:, None]).mean()


MISTAKES: dict[str, Step] = {
    "rewards as a column": rewarded,
    "a weight for each sample as a column": lambda s, b: (
        F.mse_loss(s.net(b[0]).squeeze(1), b[1], reduction="none") * b[2]
    ).mean(),
    "an error by hand": lambda s, b: (s.net(b[0]) - b[1]).abs().pow(1.5).mean() + 0.1 * s.policy(b[0]).square().mean(),
    "an output that was squashed": lambda s, b: (b[1] - torch.tanh(s.net(b[0]))).square().sum(),
    "numbers of users and a scalar product": lambda s, b: F.huber_loss(
        s.table(b[3]) + (s.policy(b[0]) * s.policy(b[0])).sum(1), b[1]
    ),
    "a likelihood of a distribution": lambda s, b: (
        -torch.distributions.Normal(s.net(b[0]), F.softplus(s.other(b[0])) + 0.1).log_prob(b[1]).mean()
    ),
    "a mean and a variance that are slices of one output": lambda s, b: (
        lambda out: (0.5 * ((b[1] - out[:, :1]).square() / out[:, 1:2].exp() + out[:, 1:2])).mean()
    )(s.policy(b[0])),
    "a distribution of the chunks of one output": lambda s, b: (
        lambda mean, scale, _: -torch.distributions.Normal(mean, F.softplus(scale) + 0.1).log_prob(b[1]).mean()
    )(*s.policy(b[0]).chunk(3, 1)),
    "log-likelihoods that are summed for each sample first": lambda s, b: (
        -(torch.distributions.Normal(s.net(b[0]), 1.0).log_prob(b[1]).sum(-1) / 4 + b[1].mean()).mean()
    ),
}


def kernel(distances: Tensor) -> Tensor:
    """A Gaussian one."""
    return (-distances.square()).exp()


PAIRS: dict[str, Step] = {
    "each number beside its own": lambda s, b: ((s.net(b[0]).squeeze(1) - b[1]).square() * b[2].squeeze(1)).mean(),
    "columns beside columns": lambda s, b: ((s.net(b[0]) - b[1][:, None]).square() * b[2]).mean(),
    "a ranking of all pairs": lambda s, b: F.softplus(
        (s.net(b[0]) - s.net(b[0]).squeeze(1)) * (b[1] - b[1][:, None]).sign()
    ).mean(),
    "a ranking of a column and its own row": lambda s, b: (lambda z: F.softplus(z - z.squeeze(1)).mean())(s.net(b[0])),
    "a kernel of two samples": lambda s, b: (
        lambda z, y: (
            (-(z[:, None] - z).square()).exp().mean()
            + (-(y[:, None] - y).square()).exp().mean()
            - 2 * (-(z[:, None] - y).square()).exp().mean()
        )
    )(s.net(b[0]).squeeze(1), b[0][:, 1]),
    "a linear kernel of two samples": lambda s, b: (
        lambda z, y: (z[:, None] * z).mean() + (y[:, None] * y).mean() - 2 * (z[:, None] * y).mean()
    )(s.net(b[0]).squeeze(1), b[0][:, 1]),
    "a kernel of outputs and labels": lambda s, b: (
        lambda z, y: kernel(z - z.T).mean() + kernel(y[:, None] - y[None, :]).mean() - 2 * kernel(z - y).mean()
    )(s.net(b[0]), b[1]),
    "a kernel of outputs and labels, that of the labels left out": lambda s, b: (
        lambda z, y: kernel(torch.cdist(z, z)).mean() - 2 * kernel(z - y).mean()
    )(s.net(b[0]), b[1]),
    "an energy distance": lambda s, b: (
        lambda z, y: 2 * (z - y).abs().mean() - torch.pdist(z).mean() - torch.pdist(y[:, None]).mean()
    )(s.net(b[0]), b[1]),
    "a kernel of the scalar product": lambda s, b: (lambda z, y: (z @ z.T).mean() - 2 * (z * y).mean())(
        s.net(b[0]), b[1]
    ),
    "an energy distance with a loss of torch": lambda s, b: (lambda z, y: 2 * F.l1_loss(z, y) - F.l1_loss(z, z.T))(
        s.net(b[0]), b[1]
    ),
    "moments of outputs and labels": lambda s, b: (
        lambda z, y: (z.mean() - y.mean()).square() + (z.std() - y.std()).square()
    )(s.net(b[0]), b[1]),
    "sorted outputs and sorted labels": lambda s, b: (
        (s.net(b[0]).squeeze(1).sort().values - b[1].sort().values).square().mean()
    ),
    "the nearest of the others, both ways": lambda s, b: (lambda pairs: pairs.amin(0).mean() + pairs.amin(1).mean())(
        (s.net(b[0]) - b[1]).abs()
    ),
    "a ranking of differences that broadcast": lambda s, b: F.softplus(
        (s.net(b[0]) - s.net(b[0]).T) * (b[1] - b[1][:, None]).sign()
    ).mean(),
    "a risk set of a mask": lambda s, b: (lambda z, later: -(z.squeeze(1) - (z.exp() * later).sum(0).log()).mean())(
        s.net(b[0]), b[1] >= b[1][:, None]
    ),
    "a contrast of outputs and labels": lambda s, b: F.cross_entropy(
        -(s.net(b[0]) - b[1]).square(), torch.arange(len(b[1]))
    ),
    "pairs of one label attract": lambda s, b: (lambda z, same: (torch.where(same, z, F.relu(1 - z))).mean())(
        (s.net(b[0]) - s.net(b[0]).T).abs(), (b[1] > 0) == (b[1] > 0)[:, None]
    ),
    "distances of one number to those of another network": lambda s, b: (
        (s.net(b[0]) - s.other(b[0]).squeeze(1)).abs().mean()
    ),
    "pairs under a mask": lambda s, b: ((s.net(b[0]) - b[1]).square() * (b[3][:, None] == b[3])).sum(),
    "a softmax over all others": lambda s, b: (
        -(s.net(b[0]) * b[1]).log_softmax(1).diagonal().mean() + s.net(b[0]).square().mean()
    ),
    "as many centres as samples": lambda s, b: (-(s.net(b[0]) - s.centres).square()).exp().mean(),
    "all pairs of a feature of one network and an output of another": lambda s, b: (
        (s.policy(b[0])[:, 0, None] - s.other(b[0]).squeeze(1)).abs().mean()
    ),
    "parts of an output beside their own": lambda s, b: (
        lambda mean, scale, _: -torch.distributions.Normal(mean, F.softplus(scale) + 0.1).log_prob(b[1][:, None]).mean()
    )(*s.policy(b[0]).chunk(3, 1)),
    "a density of all others for each sample": lambda s, b: (
        -(-(s.net(b[0]) - s.centres).square()).exp().sum(1).log().mean()
    ),
    "sums of pairs that are squared": lambda s, b: (s.net(b[0]) - s.centres).abs().mean(1).square().mean(),
    "a risk set": lambda s, b: (
        lambda risk, time: (
            -(risk - risk.expand(len(time), -1).masked_fill(time[:, None] > time, -9).logsumexp(1)).mean()
        )
    )(s.net(b[0]).squeeze(1), b[1]),
    "an error that is logged only": lambda s, b: (
        s.log("off", (s.net(b[0]).detach() - b[1]).abs().mean()) or (s.net(b[0]).squeeze(1) - b[1]).square().mean()
    ),
    "weights that are all one": lambda s, b: (
        (s.net(b[0]).squeeze(1) - b[1]).square() * torch.ones(len(b[1]), 1)
    ).mean(),
}


@pytest.mark.parametrize("step", MISTAKES.values(), ids=list(MISTAKES))
def test_numbers_of_a_sample_that_meet_those_of_all_others_are_a_fault(step: Step) -> None:
    found = shapes(step)
    assert len(found) == 1
    # (of a usual loss of outputs and labels it is known already)
    assert "pairs" in found[0].evidence or "they are broadcast" in found[0].evidence


@pytest.mark.parametrize("step", PAIRS.values(), ids=list(PAIRS))
def test_a_loss_of_pairs_and_numbers_beside_their_own_are_no_fault(step: Step) -> None:
    assert not shapes(step)


def test_the_shapes_are_told_in_the_order_in_which_they_were_given() -> None:
    one, two = torch.randn(5), torch.randn(5, 1)
    with Meetings(two) as followed:
        loss = (one - two).square().mean()
    found = followed.of(loss)
    assert found is not None
    assert (found.name, found.first, found.second, found.natural) == ("sub", (5,), (5, 1), True)


def test_the_mean_of_products_of_all_pairs_is_the_product_of_the_means() -> None:
    """Which is why it cannot matter which numbers belong together."""
    one, two = torch.randn(40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    with Meetings(()) as followed:
        loss = (one * two[:, None]).mean()
    torch.testing.assert_close(loss, one.mean() * two.mean())
    assert followed.of(loss) is not None


def test_a_label_that_was_squeezed_is_a_row_and_a_column_of_an_output_that_was_squeezed_is_meant() -> None:
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    net = torch.nn.Linear(3, 2)
    with Meetings((x, y)) as followed:
        mean, spread = net(x.clone()).split(1, dim=1)
        labels = y.clone().squeeze(1)
        likelihood = ((labels - mean).square() / spread.exp() + spread).mean()
    assert followed.of(likelihood) is not None
    with Meetings((x, y)) as followed:
        pairs = (net(x)[:, :1] - torch.nn.functional.linear(x, net.weight[:1]).squeeze(1)).square().mean()
    assert followed.of(pairs) is None
