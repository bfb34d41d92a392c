"""SanityCheck on decoders that are given what they have to say, and on what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.given_answers import answered, copies
from lightning_tricks.diagnosis.loss_calls import LossCall
from tests.diagnosis.problems import N, T, Task, V, failed_of, load, numbers

pytestmark = pytest.mark.filterwarnings("ignore")
ROW = "no look into the future"
IDS = torch.randint(1, V, (N, T), generator=numbers())


class Recurrent(nn.Module):
    """Encoder and decoder; either axis may be time."""

    def __init__(self, *, batch_first: bool = True, zero_head: bool = False) -> None:
        super().__init__()
        self.ids, self.out = nn.Embedding(V, 16), nn.Linear(24, V)
        self.encoder = nn.GRU(16, 24, batch_first=batch_first)
        self.decoder = nn.GRU(16, 24, batch_first=batch_first)
        if zero_head:
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.out(self.decoder(self.ids(given), self.encoder(self.ids(x))[1])[0])


class Causal(nn.Module):
    """Attention or convolutions that go one way, or both."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.ids, self.out = kind, nn.Embedding(V, 16), nn.Linear(16, V)
        self.layer = nn.TransformerEncoderLayer(16, 2, 16, 0.0, batch_first=True)
        self.conv = nn.Conv1d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ids(x)
        if self.kind == "convolution":
            return self.out(self.conv(F.pad(h.transpose(1, 2), (2, 0))).relu().transpose(1, 2))
        if self.kind == "each place":
            return self.out(h.tanh())
        mask = None if self.kind == "whole" else nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.out(self.layer(h, src_mask=mask))


Step = Callable[[Any, Any], Tensor]


def asked(logits: Tensor, y: Tensor, **more: Any) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), **more)


def backwards(self: Any, b: Any, *, given: bool, start: int = 0) -> Tensor:
    y = b[0].flip(1)
    return F.cross_entropy(self.net(b[0], y if given else F.pad(y[:, :-1], (1, 0), value=start)).transpose(1, 2), y)


def time_first(self: Any, b: Any) -> Tensor:
    x, y = b[0].T, b[0].flip(1).T
    return asked(self.net(x, y), y)


def padded(self: Any, b: Any, *, given: bool) -> Tensor:
    y = b[0].masked_fill(torch.arange(T) >= T - 2, 0)
    if given:
        return asked(self.net(y), y, ignore_index=0)
    return asked(self.net(y[:, :-1]), y[:, 1:], ignore_index=0)


def masked(self: Any, b: Any, *, everywhere: bool) -> Tensor:
    hidden = torch.rand(b[0].shape) < 0.3
    target = b[0] if everywhere else b[0].masked_fill(~hidden, -100)
    return asked(self.net(b[0].masked_fill(hidden, 0)), target)


WRONG: dict[str, tuple[Callable[[], nn.Module], Step]] = {
    "a decoder": (Recurrent, lambda s, b: backwards(s, b, given=True)),
    "a decoder with a head of zeros": (lambda: Recurrent(zero_head=True), lambda s, b: backwards(s, b, given=True)),
    "a decoder with time first": (lambda: Recurrent(batch_first=False), time_first),
    "ids that are made in the step": (lambda: Causal("attention"), lambda s, b: asked(s.net(b[0] % 7), b[0] % 7)),
    "causal convolutions": (lambda: Causal("convolution"), lambda s, b: asked(s.net(b[0].flip(1)), b[0].flip(1))),
    "padding that is left out": (lambda: Causal("attention"), lambda s, b: padded(s, b, given=True)),
    "by log-probabilities": (
        lambda: Causal("attention"),
        lambda s, b: F.nll_loss(s.net(b[0]).log_softmax(2).transpose(1, 2), b[0]),
    ),
}
RIGHT: dict[str, tuple[Callable[[], nn.Module], Step]] = {
    "teacher forcing": (Recurrent, lambda s, b: backwards(s, b, given=False)),
    "a copy is spelled": (
        Recurrent,
        lambda s, b: asked(s.net(b[0], F.pad(b[0][:, :-1], (1, 0))), b[0]),
    ),
    "an autoencoder of sequences": (Recurrent, lambda s, b: asked(s.net(b[0], torch.zeros_like(b[0])), b[0])),
    "the whole sequence is seen": (lambda: Causal("whole"), lambda s, b: asked(s.net(b[0]), b[0])),
    "each place for itself": (lambda: Causal("each place"), lambda s, b: asked(s.net(b[0] % 7), b[0] % 7)),
    "masked ids": (lambda: Causal("whole"), lambda s, b: masked(s, b, everywhere=False)),
    "masked ids, all are asked for": (lambda: Causal("whole"), lambda s, b: masked(s, b, everywhere=True)),
    "the next element": (lambda: Causal("attention"), lambda s, b: asked(s.net(b[0][:, :-1]), b[0][:, 1:])),
    "the next element, padding left out": (lambda: Causal("attention"), lambda s, b: padded(s, b, given=False)),
    "the element before": (lambda: Causal("convolution"), lambda s, b: asked(s.net(b[0][:, 1:]), b[0][:, :-1])),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_is_given_its_answers_fails(name: str) -> None:
    make, step = WRONG[name]
    assert "has to copy" in failed_of("sample_independence", Task(make(), step), load(IDS)).get(ROW, "")


@pytest.mark.parametrize("name", RIGHT)
def test_models_that_have_something_to_find_out_are_left_alone(name: str) -> None:
    make, step = RIGHT[name]
    assert ROW not in failed_of("sample_independence", Task(make(), step), load(IDS))


def test_answers_are_those_at_the_same_places_that_count() -> None:
    logits, left_out = torch.zeros(N * T, V), torch.where(IDS < 3, -100, IDS)

    def found(ids: Tensor, target: Tensor, **options: Any) -> list[tuple[int, int]]:
        return answered([IDS[:, :3], ids], [LossCall("cross_entropy", logits, target, options)])

    assert found(IDS, IDS) == found(IDS, IDS.flatten()) == found(IDS, left_out) == [(1, 0)]
    assert found(IDS, torch.where(IDS < 3, 0, IDS), ignore_index=0) == [(1, 0)]
    assert found(IDS, torch.where(IDS < 3, 0, IDS)) == []
    assert found(IDS.T, IDS.flatten()) == found(IDS, IDS.T) == []
    assert found(torch.ones_like(IDS), torch.ones_like(IDS)) == []  # (one answer for all is no sequence)
    assert found(IDS, torch.full_like(IDS, -100)) == []


@pytest.mark.parametrize("places", [(0.1, 0.5, 0.2), (0.0, 0.0, 0.2), (0.0, 0.5, 0.0)])
def test_only_an_order_that_sees_its_own_place_copies(places: tuple[float, float, float]) -> None:
    before, there, behind = places
    assert copies(torch.tensor([before, before, there, behind, behind])) == []


class EncoderFirst(Recurrent):
    """Looks up what the encoder is given before what the decoder is given."""

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        state = self.encoder(self.ids(x))[1]
        return self.out(self.decoder(self.ids(given), state)[0])


def test_a_decoder_that_is_given_the_ids_of_its_encoder_copies() -> None:
    task = Task(EncoderFirst(), lambda s, batch: asked(s.net(batch[0], batch[0]), batch[0]))
    assert ROW in failed_of("sample_independence", task, load(IDS))


def test_a_decoder_that_says_what_its_encoder_was_given_is_none() -> None:
    def step(s: Any, batch: Any) -> Tensor:
        return asked(s.net(batch[0], F.pad(batch[0], (1, -1))), batch[0])

    assert ROW not in failed_of("sample_independence", Task(EncoderFirst(), step), load(IDS))
