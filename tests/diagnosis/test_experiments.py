"""SanityCheck on inputs, samples and layers; the wide table of trainings is in test_sanity_on_other_trainings.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnosis.problems import (
    N,
    T,
    Task,
    V,
    checks,
    classes,
    cross_entropy,
    graph,
    language,
    load,
    mlp,
    network,
    tagger,
    text,
    zero_head,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_inputs_of_a_head_that_begins_at_zero_are_asked_after_some_updates() -> None:
    found = checks(*zero_head())["inputs matter"]
    assert found.passed
    assert found.evidence.endswith("after 5 updates")


def test_fresh_running_statistics_of_many_layers_do_not_hide_the_input() -> None:
    layers: list[nn.Module] = []
    for _ in range(20):
        layers += [nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU()]
    module = Task(nn.Sequential(nn.Linear(12, 24), *layers, nn.Linear(24, 4)), cross_entropy)
    assert checks(module, load(*classes()))["inputs matter"].passed


def test_images_that_the_step_mixes_are_no_leak() -> None:
    def mixed(self: Any, b: Any) -> Any:
        order = torch.randperm(len(b[0]))
        logits = self.net(0.7 * b[0] + 0.3 * b[0][order])
        return 0.7 * F.cross_entropy(logits, b[1]) + 0.3 * F.cross_entropy(logits, b[1][order])

    found = checks(Task(mlp(), mixed), load(*classes()))["samples do not leak"]
    assert found.passed is None and found.evidence.endswith("mixes the samples, before they reach the model")


class Signs(nn.Module):
    """A recurrent network over signs, in one direction or in both."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(11, 16), nn.GRU(16, 16, batch_first=True, bidirectional=both)
        self.out = nn.Linear(32 if both else 16, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.gru(self.embed(x))[0])


def test_targets_that_were_not_shifted_are_told_from_shifted_ones_and_from_an_autoencoder() -> None:
    x = torch.randint(11, (128, 12), generator=torch.Generator().manual_seed(0))

    def asked(both: bool, *data: torch.Tensor) -> Any:
        step = lambda self, b: F.cross_entropy(self.net(b[0]).transpose(1, 2), b[-1])  # noqa: E731
        return checks(Task(Signs(both), step), load(*data)).get("no look into the future")

    found = asked(False, x)
    assert found.passed is False and found.evidence.endswith("which the model sees: it has to copy")
    assert asked(False, x, x.clone()).passed is False, "a second tensor with the same signs"
    assert asked(False, x[:, :-1], x[:, 1:].clone()).passed
    assert asked(True, x) is None, "the whole is given back, as by an autoencoder"


def test_an_input_that_the_loss_does_not_use_does_not_matter() -> None:
    def step(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.net(b[0]) * 0 + self.bias, b[1])

    module = Task(mlp(), step)
    module.bias = nn.Parameter(torch.zeros(4))
    assert checks(module, load(*classes()))["inputs matter"].passed is False


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


class Speller(nn.Module):
    """An encoder and a decoder, which is given signs that it has to say."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 16), nn.Linear(16, 11)
        self.encoder, self.decoder = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)

    def forward(self, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.out(self.decoder(self.embed(given), self.encoder(self.embed(x))[1])[0])


@pytest.mark.parametrize("shifted", [False, True])
def test_a_decoder_that_is_given_the_answer_is_told_from_teacher_forcing(shifted: bool) -> None:
    def step(self: Any, b: Any) -> Any:
        given = F.pad(b[1][:, :-1], (1, 0)) if shifted else b[1]
        return F.cross_entropy(self.net(b[0], given).transpose(1, 2), b[1])

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(11, (128, 8), generator=generator) for _ in range(2))
    found = checks(Task(Speller(), step), load(x, y)).get("no look into the future")
    assert found is None if shifted else found.passed is False


def test_only_where_the_next_element_is_predicted_is_the_future_asked() -> None:
    assert checks(*language("recurrent"))["no look into the future"].passed
    assert "no look into the future" not in checks(*tagger())
    assert "no look into the future" not in checks(*network(mlp()))


def test_a_bounded_output_is_no_saturated_layer() -> None:
    x, _ = classes()
    net = nn.Sequential(mlp(12), nn.Tanh())
    nn.init.constant_(net[0][2].bias, 5.0)  # type: ignore[index]
    module = Task(net, lambda self, b: F.mse_loss(self.net(b[0]), b[0]))
    assert checks(module, load(x.sign()))["units are alive"].passed
    behind = nn.Sequential(*net, nn.Linear(12, 12))
    module = Task(behind, lambda self, b: F.mse_loss(self.net(b[0]), b[0]))
    assert checks(module, load(x.sign()))["units are alive"].passed is False


def test_statistics_of_an_earlier_training_may_be_kept() -> None:
    net = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
    net(classes()[0])
    net.eval()
    found = checks(Task(net, cross_entropy), load(*classes()))["modules are in training mode"]
    assert found.passed is None
    assert "an earlier training: net.1" in found.evidence


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


class Played(Task):
    """Learns from an environment, whose states come from no batch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        policy = torch.distributions.Categorical(logits=self.net(torch.eye(12)[torch.randint(12, (8,))]))
        action = policy.sample()
        return -(policy.log_prob(action) * (action == 0)).mean()


@pytest.mark.parametrize("batch", [torch.zeros(64), torch.arange(64), torch.ones(64, 3)])
def test_a_batch_that_holds_nothing_need_not_matter(batch: torch.Tensor) -> None:
    found = checks(Played(mlp(), cross_entropy), load(batch, shuffle=False))["inputs matter"]
    assert found.passed is None and "the batch holds nothing that could" in found.evidence


def test_random_numbers_in_place_of_the_batch_fail() -> None:
    step = lambda self, b: self.net(torch.randn(8, 12)).square().mean()  # noqa: E731
    assert checks(Task(mlp(), step), load(torch.randn(64, 12)))["inputs matter"].passed is False


def test_a_term_whose_weight_is_still_0_may_matter_later() -> None:
    few, labels = classes()

    def step(self: Any, b: Any) -> Any:
        supervised = F.cross_entropy(self.net(few[:16]), labels[:16])
        return supervised + 0.0 * self.net(b[0] + 0.1 * torch.randn_like(b[0])).softmax(1).square().sum()

    found = checks(Task(mlp(), step), load(few))["inputs matter"]
    assert found.passed is None and "does not depend yet" in found.evidence


def test_nothing_but_padding_that_gives_nan_is_a_change() -> None:
    signs = torch.randint(1, 11, (96, 12), generator=torch.Generator().manual_seed(0))

    def step(self: Any, b: Any) -> Any:
        logits = self.net(b[0][:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), b[0][:, 1:].flatten(), ignore_index=0)

    assert checks(Task(Signs(False), step), load(signs))["inputs matter"].passed is True


def test_a_softmax_over_the_queries_looks_ahead_however_little() -> None:
    class Attention(nn.Module):
        def __init__(self, axis: int) -> None:
            super().__init__()
            self.axis = axis
            self.embed, self.out = nn.Embedding(11, 16), nn.Linear(16, 11)
            self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.embed(x)
            scores = self.q(h) @ self.k(h).transpose(1, 2) / 64
            hidden = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
            weights = scores.masked_fill(hidden, -torch.inf).softmax(self.axis)
            return self.out(h + 0.05 * weights @ self.v(h))

    signs = torch.randint(11, (96, 12), generator=torch.Generator().manual_seed(0))

    def step(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.net(b[0][:, :-1]).flatten(0, 1), b[0][:, 1:].flatten())

    found = [checks(Task(Attention(axis), step), load(signs))["no look into the future"] for axis in (-2, -1)]
    assert [f.passed for f in found] == [False, True]


class Translator(nn.Module):
    """An encoder and a decoder that starts from its state, or from zeros."""

    def __init__(self, from_zeros: bool) -> None:
        super().__init__()
        self.from_zeros = from_zeros
        self.source, self.target = nn.Embedding(11, 16), nn.Embedding(11, 16)
        self.encoder, self.decoder = (nn.GRU(16, 16, batch_first=True) for _ in range(2))
        self.out = nn.Linear(16, 11)

    def forward(self, source: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        state = self.encoder(self.source(source))[1]
        hidden = self.decoder(self.target(before), torch.zeros_like(state) if self.from_zeros else state)[0]
        return self.out(hidden)


@pytest.mark.parametrize("from_zeros", [True, False])
def test_an_input_that_modules_see_must_reach_the_prediction(from_zeros: bool) -> None:
    source, target = torch.randint(11, (2, 96, 8), generator=torch.Generator().manual_seed(0))

    def step(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.net(b[0], b[1][:, :-1]).flatten(0, 1), b[2][:, 1:].flatten())

    found = checks(Task(Translator(from_zeros), step), load(source, target, target.clone()))["inputs matter"]
    assert found.passed is not from_zeros
    assert not from_zeros or "tensor 0 of the batch, (16, 8)" in found.evidence


def test_inputs_of_a_gate_that_begins_at_0_reach_it_after_some_updates() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.more, self.gate = mlp(), mlp(), nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return self.body(x) + self.gate * self.more(z)

    x, y = classes()
    found = checks(Task(Gated(), lambda self, b: F.cross_entropy(self.net(b[0], b[1]), b[2])), load(x, x.roll(1, 1), y))
    assert found["inputs matter"].passed is True


def test_crops_of_a_seed_of_their_own_are_made_by_the_step_and_belong_to_a_place() -> None:
    def step(self: Any, b: Any) -> Any:
        keep = torch.rand(len(b[0]), 12, generator=torch.Generator().manual_seed(3)) > 0.3
        return F.cross_entropy(self.net(b[0] * keep), b[1])

    assert checks(Task(mlp(), step), load(*classes()))["samples do not leak"].passed is True


def test_labels_that_make_the_inputs_need_not_reach_the_prediction_by_themselves() -> None:
    def step(self: Any, b: Any) -> Any:
        x = b[0].clone().requires_grad_()
        if self.training:
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(F.cross_entropy(self.net(x), b[1]), x)
            x = (x + 0.1 * slope.sign()).detach()
        return F.cross_entropy(self.net(x), b[1])

    x, y = classes()
    assert checks(Task(mlp(), step), load(x, y))["inputs matter"].passed is True


class TwoInputs(nn.Module):
    """A source that is summed up, and tokens that are given one by one; options: which of them reach the output."""

    def __init__(self, *lost: str) -> None:
        super().__init__()
        self.lost = lost
        self.source, self.given = nn.Embedding(V, 16), nn.Embedding(V, 16)
        self.decoder, self.out = nn.GRU(16, 16, batch_first=True), nn.Linear(16, V)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        state = self.source(x).mean(1)[None]
        steps = self.given(given)
        state = torch.zeros_like(state) if "source" in self.lost else state
        return self.out(self.decoder(torch.zeros_like(steps) if "given" in self.lost else steps, state)[0])


class LastOutput(TwoInputs):
    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return super().forward(x, given)[:, -1]


def _decoded(self: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(self.net(x, y[:, :-1]).transpose(1, 2), y[:, 1:])


def _beside(self: Any, batch: Any) -> Tensor:
    x, more, y = batch
    return F.cross_entropy(self.net(x, more), y)


def test_a_source_whose_state_is_not_handed_on_is_lost_although_the_target_is_an_input_as_well() -> None:
    data = load(text(), text().flip(1))
    assert checks(Task(TwoInputs(), _decoded), data)["inputs matter"].passed
    found = checks(Task(TwoInputs("source"), _decoded), data)["inputs matter"]
    assert found.passed is False
    assert found.evidence.startswith(f"modules see tensor 0 of the batch, (16, {T}), and the prediction")


@pytest.mark.parametrize(("lost", "position"), [("source", 0), ("given", 1)])
def test_of_two_inputs_the_one_that_does_not_reach_the_prediction_is_named(lost: str, position: int) -> None:
    tokens = text()
    data = load(tokens, tokens.roll(1, 0), tokens[:, 0])
    assert checks(Task(LastOutput(), _beside), data)["inputs matter"].passed
    found = checks(Task(LastOutput(lost), _beside), data)["inputs matter"]
    assert found.passed is False and f"tensor {position} of the batch" in found.evidence


def test_labels_from_which_an_attack_makes_the_inputs_are_not_taken_for_a_lost_input() -> None:
    def attacked(self: Any, batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        with torch.enable_grad():
            slope = torch.autograd.grad(F.cross_entropy(self.net(x), batch[1]), x)[0]
        return F.cross_entropy(self.net((x + 0.05 * slope.sign()).detach()), batch[1])

    assert checks(Task(mlp(), attacked), load(*classes()))["inputs matter"].passed is not False


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


class ReturnsItsLoss(nn.Module):
    """Is given the labels, and returns logits and loss, as models for texts do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4)

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.body(x)
        return F.cross_entropy(logits, labels), logits


def test_what_a_loss_computes_on_its_way_is_no_output_of_the_model() -> None:
    found = checks(Embedded(), load(*classes()))
    assert found["samples do not leak"].passed, found["samples do not leak"].evidence


def test_a_model_that_is_given_the_labels_is_not_taken_for_a_loss() -> None:
    net = ReturnsItsLoss()
    found = checks(Task(net, lambda self, b: self.net(b[0], b[1])[0]), load(*classes()))
    assert found["initial loss"].evidence.endswith("knowing nothing of 4 classes gives 1.386")
    assert found["inputs matter"].passed


def _within_margin(self: Any, batch: Any) -> Tensor:
    """A margin that every pair keeps."""
    z = F.normalize(self.net(batch[0]), dim=1)
    return (z @ z.T - 2.0).clamp(min=0).mean()


def test_a_loss_of_0_without_gradients_from_the_start_is_no_success() -> None:
    found = checks(Task(mlp(8), _within_margin), load(*classes()))
    assert found["all parameters learn"].passed is False
    assert found["all parameters learn"].evidence == "the loss is 0, and so is every gradient, on 6 batches"
    assert found["overfits one batch"].passed is None
    assert "mean gives" not in found["initial loss"].evidence


def test_pairs_that_a_trained_network_keeps_apart_are_a_success() -> None:
    net = mlp(8)
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    assert checks(Task(net, _within_margin), load(*classes()))["all parameters learn"].passed


@pytest.mark.parametrize(("columns", "passed"), [(32, True), (4, None)])
def test_columns_that_are_many_more_than_classes_are_an_embedding(columns: int, passed: bool | None) -> None:
    def apart(self: Any, batch: Any) -> Tensor:
        z, y = self.net(batch[0]), batch[1]
        near = torch.cdist(z, z)
        return near[y[:, None] == y].mean() - near.mean() + 3

    assert checks(Task(mlp(columns), apart), load(*classes()))["initial loss"].passed is passed


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
