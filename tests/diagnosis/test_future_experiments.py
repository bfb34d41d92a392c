"""SanityCheck on outputs that see what comes after their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.problems import (
    Task,
    checks,
    language,
    load,
    mlp,
    network,
    tagger,
)

pytestmark = pytest.mark.filterwarnings("ignore")


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
