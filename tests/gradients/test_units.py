from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks import AGC, GradientClip, TrickError, UnsupportedError
from lightning_tricks.functional import adaptive_coefficient
from tests.problems import Classifier, fit


class Table(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(17, 4, sparse=True), nn.Linear(4, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = self.table((batch[0] * 16).long()).sum(dim=1)
        return nn.functional.cross_entropy(self.head(x), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_sparse_gradients_are_refused_by_name_or_left_out() -> None:
    with pytest.raises(UnsupportedError, match=r"'table\.weight' has sparse gradients.*Name it in exclude="):
        fit(Table(), [GradientClip(AGC())], n=16)
    clip = GradientClip(AGC(exclude=("^table",)))
    fit(Table(), [clip], n=16)
    assert clip.clipped_fraction > 0


def test_an_exclusion_that_matches_nothing_is_refused() -> None:
    with pytest.raises(TrickError, match=r"AGC\(exclude='\^haed'\): the pattern matches no parameter"):
        fit(Classifier(), [GradientClip(AGC(exclude=("^haed",)))], n=8)


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2), (7,), ()])
def test_agc_bounds_every_unit_by_its_weights(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(shape).double(), torch.randn(shape).double() * 3
    clipped = gradient * adaptive_coefficient(gradient.float(), weight.float(), 0.1, 1e-3, 1.0).double()
    units = [(weight, gradient, clipped)] if len(shape) < 2 else list(zip(weight, gradient, clipped, strict=True))
    for w, g, c in units:
        allowed = 0.1 * max(float(w.norm()), 1e-3)
        expected = g * min(1.0, allowed / float(g.norm()))
        torch.testing.assert_close(c, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: AGC(0.0), ValueError, "factor must be > 0"),
        (lambda: AGC(eps=0.0), ValueError, "eps must be > 0"),
        (lambda: AGC(exclude="head"), TypeError, "exclude must be a list of patterns"),
    ],
)
def test_bad_arguments_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_agc_asked_for_norms_says_what_to_call() -> None:
    with pytest.raises(TypeError, match="Call adaptive_coefficient"):
        AGC().update(torch.ones(1), {})
