"""Batches are what users' code makes: SanityCheck and PredictionCollapse see the tensors in all of these forms alike."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_tricks import PredictionCollapse, SanityCheck
from tests.diagnosis.problems import Task, classes, mlp
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore")
Pair = namedtuple("Pair", "x y")


@dataclass
class Fields:
    x: Tensor
    y: Tensor


class Encoding(UserDict[str, Tensor]):
    """As a ``BatchEncoding``."""

    def to(self, device: Any) -> Encoding:
        return Encoding({k: v.to(device) for k, v in self.items()})


class Own:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any, **more: Any) -> Own:
        return Own(self.x.to(device), self.y.to(device))


FORMS: dict[str, tuple[Any, Any]] = {
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "dict": (lambda x, y: {"x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "named tuple": (Pair, lambda b: (b.x, b.y)),
    "dataclass": (Fields, lambda b: (b.x, b.y)),
    "encoding": (lambda x, y: Encoding(x=x, y=y), lambda b: (b["x"], b["y"])),
    "object": (Own, lambda b: (b.x, b.y)),
}


def step(read: Any) -> Any:
    def loss(self: Any, batch: Any) -> dict[str, Tensor]:
        x, y = read(batch)
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, y), "logits": logits.detach()}

    return loss


def loaded(make: Any) -> DataLoader[Any]:
    x, y = classes()
    rows = list(zip(x, y, strict=True))

    def collate(items: Any) -> Any:
        return make(torch.stack([i[0] for i in items]), torch.stack([i[1] for i in items]))

    return DataLoader(rows, 16, shuffle=True, collate_fn=collate, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_asked_the_same_and_answers_the_same(form: str) -> None:
    found = []
    for make, read in (FORMS["tuple"], FORMS[form]):
        torch.manual_seed(0)
        check = SanityCheck()
        trainer([check], max_steps=1, max_epochs=1).fit(Task(mlp(), step(read)), loaded(make))
        found.append([(c.name, c.passed) for c in check.checks])
    assert found[0] == found[1]
    assert dict(found[0])["inputs matter"] and dict(found[0])["initial loss"]


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_found_in_each_form(form: str) -> None:
    make, read = FORMS[form]
    torch.manual_seed(0)
    watch = PredictionCollapse(every_n_steps=4)
    trainer([watch], max_epochs=3).fit(Task(mlp(), step(read), lr=0.01), loaded(make))
    assert watch.history and watch.history[-1][1]["label_classes"] > 3.5


def test_a_language_model_is_compared_with_its_next_tokens() -> None:
    """The labels are the tokens, which the loss shifts, as models of transformers do."""
    start = torch.randint(16, (192, 1), generator=torch.Generator().manual_seed(0))
    tokens = (start + 3 * torch.arange(10)) % 16
    net = nn.Sequential(nn.Embedding(16, 32), nn.Linear(32, 16))

    def shifted(self: Any, batch: Any) -> Tensor:
        logits = self.net(batch["input_ids"])
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    data: Any = [{"input_ids": row, "labels": row} for row in tokens]
    watch = PredictionCollapse(every_n_steps=4)
    trainer([watch], max_epochs=4).fit(Task(net, shifted, lr=0.03), DataLoader(data, 16))
    assert watch.history[-1][1]["skill"] > 0.3 and not watch.alarms
