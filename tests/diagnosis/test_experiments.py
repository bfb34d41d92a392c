"""SanityCheck on inputs and layers; the wide table of trainings is in test_sanity_on_other_trainings.py."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.experiments import _share_of_gradient
from tests.diagnosis.problems import (
    T,
    Task,
    V,
    checks,
    classes,
    cross_entropy,
    load,
    mlp,
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


class Rounds(nn.Module):
    """An encoder, whole numbers, and a decoder; gradients pass the rounding, or they do not."""

    def __init__(self, passed_on: bool, factor: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 4), nn.Linear(4, 4)
        self.passed_on, self.factor = passed_on, factor

    def forward(self, x: Tensor) -> Tensor:
        # (so small that it is rounded to 0)
        z = self.encoder(x * self.factor).tanh() * 0.3
        return self.decoder(z + (z.round() - z).detach() if self.passed_on else z.round())


def test_what_a_rounding_hides_at_first_is_no_fault_where_gradients_pass_it() -> None:
    assert checks(Task(Rounds(True), cross_entropy), load(*classes()))["inputs matter"].passed is None


def test_how_far_inputs_could_move_a_prediction_is_told_without_a_warning_of_torch() -> None:
    """Torch warns of a number that is made of a tensor with a graph, by default once in a process."""
    inputs = torch.tensor([[1.0, 2.0]], requires_grad=True)
    prediction = inputs @ torch.tensor([[3.0], [0.0]])
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            share = _share_of_gradient(prediction, prediction.detach(), prediction.sum(), [inputs])
    finally:
        torch.set_warn_always(always)
    # the slope of a half of 3^2 by the first input is 3 * 3, and 1 * 9 over 3^2 is 1
    assert share == pytest.approx(1.0)


@pytest.mark.parametrize(("passed_on", "factor"), [(False, 1.0), (True, 0.0)])
def test_a_rounding_that_keeps_gradients_back_and_a_factor_of_0_are_faults(passed_on: bool, factor: float) -> None:
    assert checks(Task(Rounds(passed_on, factor), cross_entropy), load(*classes()))["inputs matter"].passed is False


def test_a_prediction_that_moves_by_too_little_for_its_loss_is_not_taken_for_a_rounding() -> None:
    """Targets far from 0: what the network says of the input is lost in the loss, and no rounding hides it."""
    x, _ = classes()
    module = Task(mlp(1, 12), lambda s, b: F.mse_loss(s.net(b[0]).squeeze(1), b[1]), 1e-2)
    found = checks(module, load(x * 0.01, 1e5 + 100 * x[:, 0]))["inputs matter"]
    assert found.passed is False and "as through a rounding" not in found.evidence


class Signs(nn.Module):
    """A recurrent network over signs, in one direction or in both."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(11, 16), nn.GRU(16, 16, batch_first=True, bidirectional=both)
        self.out = nn.Linear(32 if both else 16, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.gru(self.embed(x))[0])


def test_an_input_that_the_loss_does_not_use_does_not_matter() -> None:
    def step(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.net(b[0]) * 0 + self.bias, b[1])

    module = Task(mlp(), step)
    module.bias = nn.Parameter(torch.zeros(4))
    assert checks(module, load(*classes()))["inputs matter"].passed is False


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


class ReturnsItsLoss(nn.Module):
    """Is given the labels, and returns logits and loss, as models for texts do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4)

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.body(x)
        return F.cross_entropy(logits, labels), logits


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
