"""SanityCheck on samples that change the outputs of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnosis.problems import (
    N,
    Task,
    V,
    checks,
    classes,
    cross_entropy,
    graph,
    load,
    mlp,
    text,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_images_that_the_step_mixes_are_no_leak() -> None:
    def mixed(self: Any, b: Any) -> Any:
        order = torch.randperm(len(b[0]))
        logits = self.net(0.7 * b[0] + 0.3 * b[0][order])
        return 0.7 * F.cross_entropy(logits, b[1]) + 0.3 * F.cross_entropy(logits, b[1][order])

    found = checks(Task(mlp(), mixed), load(*classes()))["samples do not leak"]
    assert found.passed is None and found.evidence.endswith("mixes the samples, before they reach the model")


def test_rows_of_a_graph_may_depend_on_each_other() -> None:
    found = checks(*graph())["samples do not leak"]
    assert found.passed is None


def test_a_batch_with_a_square_matrix_beside_its_rows_is_a_graph() -> None:
    x, y = classes()
    batches = [(x[i : i + 32], torch.rand(32, 32), y[i : i + 32]) for i in range(0, N, 32)]
    module = Task(mlp(), lambda self, b: F.cross_entropy(self.net(b[1] @ b[0]), b[2]))
    data = torch.utils.data.DataLoader(batches, batch_size=None)
    found = checks(module, data)["samples do not leak"]
    assert found.passed is None
    assert "as a graph" in found.evidence


def test_time_may_come_first() -> None:
    x, y = torch.randn(10, 8, 12), torch.randint(4, (10, 8))

    def step(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.net(b[0].transpose(0, 1)).transpose(0, 1).flatten(0, 1), b[1].flatten())

    module = Task(mlp(), step)
    batches = torch.utils.data.DataLoader([(x + i, y) for i in range(4)], batch_size=None)
    assert checks(module, batches)["samples do not leak"].passed is not False


class Rows(nn.Module):
    """A recurrent network over rows ``[batch, time, features]``."""

    def __init__(self, batch_first: bool, both: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 16, batch_first=batch_first, bidirectional=both)
        self.out = nn.Linear(32 if both else 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x.reshape(len(x), 4, 3))[0][:, -1])


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_recurrent_network_that_takes_the_batch_for_time_leaks(batch_first: bool, both: bool) -> None:
    found = checks(Task(Rows(batch_first, both), cross_entropy), load(*classes()))["samples do not leak"]
    assert found.passed is batch_first


class Places(nn.Module):
    """A class for each sequence, with an embedding of places along one of the dimensions; option: noise in eval mode."""

    def __init__(self, dimension: int, noise: float = 0.0) -> None:
        super().__init__()
        self.dimension, self.noise = dimension, noise
        self.embed, self.place, self.head = nn.Embedding(11, 16), nn.Embedding(32, 16), nn.Linear(16, 4)

    def forward(self, signs: torch.Tensor) -> torch.Tensor:
        place = self.place(torch.arange(signs.shape[self.dimension]))
        h = self.embed(signs) + (place[:, None] if self.dimension == 0 else place)
        logits = self.head(h.tanh().mean(1))
        return logits + self.noise * torch.randn_like(logits)


@pytest.mark.parametrize(("dimension", "noise", "passed"), [(0, 0.0, False), (1, 0.0, True), (1, 0.5, True)])
def test_an_output_must_not_depend_on_the_place_of_its_sample_in_the_batch(
    dimension: int, noise: float, passed: bool
) -> None:
    signs = torch.randint(11, (96, 12), generator=torch.Generator().manual_seed(0))
    found = checks(Task(Places(dimension, noise), cross_entropy), load(signs, signs[:, 0] % 4))["samples do not leak"]
    assert found.passed is passed
    assert passed or "with its place in the batch" in found.evidence


def test_an_output_with_a_margin_for_its_label_belongs_to_its_sample() -> None:
    def angular(self: Any, batch: Any) -> dict[str, torch.Tensor]:
        cosine = F.normalize(self.net(batch[0]), dim=1) @ F.normalize(self.net[0].weight[:4, :4], dim=1)
        logits = 8 * (cosine - 0.3 * F.one_hot(batch[1], 4))
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    assert checks(Task(mlp(), angular), load(*classes()))["samples do not leak"].passed


def test_crops_of_a_seed_of_their_own_are_made_by_the_step_and_belong_to_a_place() -> None:
    def step(self: Any, b: Any) -> Any:
        keep = torch.rand(len(b[0]), 12, generator=torch.Generator().manual_seed(3)) > 0.3
        return F.cross_entropy(self.net(b[0] * keep), b[1])

    assert checks(Task(mlp(), step), load(*classes()))["samples do not leak"].passed is True


class Distances(nn.Module):
    def forward(self, embedding: Tensor) -> Tensor:
        return torch.cdist(embedding, embedding)


class PairLoss(nn.Module):
    """Pairs of one class are to be near; its distances are a module, as those of libraries for metric learning are."""

    def __init__(self) -> None:
        super().__init__()
        self.distance = Distances()

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        same, apart = labels[:, None] == labels, self.distance(embedding)
        return (apart * same).mean() + ((1 - apart).clamp(min=0) * ~same).mean()


class Embedded(Task):
    def __init__(self) -> None:
        super().__init__(mlp(8), lambda self, b: self.criterion(self.net(b[0]), b[1]))
        self.criterion = PairLoss()


def test_what_a_loss_computes_on_its_way_is_no_output_of_the_model() -> None:
    found = checks(Embedded(), load(*classes()))
    assert found["samples do not leak"].passed, found["samples do not leak"].evidence


def test_as_many_classes_as_samples_are_not_mistaken_for_them() -> None:
    """Logits of tokens one after another ``[n * T, V]``, with V = n."""
    tokens = text()

    def step(self: Any, batch: Any) -> Any:
        logits = self.net(batch[0][:, :-1]).flatten(0, 1)
        return {"loss": F.cross_entropy(logits, batch[0][:, 1:].flatten()), "logits": logits}

    assert V == 16
    net = nn.Sequential(nn.Embedding(V, 16), nn.Linear(16, V))
    assert checks(Task(net, step), load(tokens))["samples do not leak"].passed


@pytest.mark.parametrize("leaks", [False, True])
def test_one_number_for_each_sample_can_be_asked_for_leaks(leaks: bool) -> None:
    x, y = classes()

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(1)

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x).squeeze(1)
            return out - out.mean() if leaks else out

    found = checks(Task(One(), lambda self, b: F.mse_loss(self.net(b[0]), b[1])), load(x, y.float()))
    assert found["samples do not leak"].passed is not leaks


class Scaled(nn.Module):
    """Shift and scale are made of the first batch that is seen, as ``ActNorm`` and a codebook by k-means are.

    Args:
        always: of every batch.
    """

    def __init__(self, width: int, always: bool) -> None:
        super().__init__()
        self.always = always
        self.shift, self.scale = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.ones(width))
        self.made: torch.Tensor
        self.register_buffer("made", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        if self.always or not self.made:
            self.shift.data.copy_(x.detach()[0] + x.detach().mean(0))  # (another one for each order, too)
            self.scale.data.copy_(x.detach().std(0) + 1e-3)
            self.made.fill_(True)
        return (x - self.shift) / self.scale


@pytest.mark.parametrize("always", [False, True])
def test_what_is_made_of_the_first_batch_alone_lets_no_sample_leak(always: bool) -> None:
    net = nn.Sequential(nn.Linear(12, 16), Scaled(16, always), nn.ReLU(), nn.Linear(16, 4))
    assert checks(Task(net, cross_entropy), load(*classes()))["samples do not leak"].passed is not always


class LooksInEval(Task):
    """Goes to eval mode and back at the start of each batch, as one that asks a teacher there does."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.eval()
        self.train()


class Centred(nn.Module):
    """Takes the mean of the batch away, in both modes."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize("leaks", [False, True])
def test_a_module_that_sets_itself_to_training_mode_is_examined_in_eval_mode_all_the_same(leaks: bool) -> None:
    last = Centred() if leaks else nn.Identity()
    net = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4), last)
    module = LooksInEval(net, cross_entropy)
    found = checks(module, load(*classes()))["samples do not leak"]
    assert found.passed is not leaks
    assert module.training and all("train" not in vars(m) for m in module.modules())
