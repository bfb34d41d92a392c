from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks import AGC, GradientClip, TrickError, UnsupportedError
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
