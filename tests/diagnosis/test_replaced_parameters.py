from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_tricks import SanityCheck, TrainingDoctor
from lightning_tricks.diagnosis.replaced_parameters import replaced
from tests.problems import Classifier, digits, trainer


class Renewed(Classifier):
    """Gets another head at some moment."""

    def __init__(self, moment: str = "") -> None:
        super().__init__()
        self.body, self.head, self.moment = nn.Linear(64, 24), nn.Linear(24, 10), moment

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.head(self.body(batch[0].flatten(1)).relu()), batch[1])

    def renew(self, moment: str) -> None:
        if moment == self.moment:
            self.head = nn.Linear(24, 10)

    def setup(self, stage: str) -> None:
        self.renew("setup")

    def on_fit_start(self) -> None:
        self.renew("fit")

    def on_train_start(self) -> None:
        self.renew("train")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.body.parameters(), *self.head.parameters()], lr=0.05)


def data() -> DataLoader[Any]:
    return DataLoader(digits(1792), batch_size=64)


@pytest.mark.parametrize(("moment", "alarmed"), [("", False), ("setup", False), ("fit", True), ("train", True)])
def test_a_head_that_is_made_after_the_optimizer_is_noticed(moment: str, alarmed: bool) -> None:
    found = TrainingDoctor(every_n_steps=5, action="log")
    trainer([found], max_epochs=1).fit(Renewed(moment), data())
    still = [v for v in found.alarms if v.cause == "weights do not change"]
    assert bool(still) == alarmed
    if alarmed:
        assert "head.weight, head.bias: made after the optimizer" in still[0].reasons[0]
        assert "before configure_optimizers is called" in still[0].advice[0] and still[0].step <= 10


@pytest.mark.parametrize("moment", ["fit", "train"])
def test_sanity_check_names_it_before_the_first_update(moment: str) -> None:
    check = SanityCheck()
    check.prints = False
    trainer([check], max_epochs=1).fit(Renewed(moment), data())
    found = next(c for c in check.checks if c.name == "all parameters learn")
    assert found.mark == "FAIL" and "in no optimizer" in found.evidence


def test_what_an_optimizer_never_held_and_what_it_holds_besides_is_left_alone() -> None:
    root, beside = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), nn.Linear(5, 6)
    root(torch.ones(1, 2)).sum().backward()
    body, head = list(root[0].parameters()), list(root[1].parameters())
    assert replaced(root, body) == []  # a head left out
    assert replaced(root, [*body, *head, *beside.parameters()]) == []  # of a criterion that is no part of the module
    assert replaced(root, [*body, *beside.parameters()]) == []  # of another shape
    assert replaced(root, [*body, *nn.Linear(3, 7).parameters()]) == ["1.weight", "1.bias"]  # other classes
    assert replaced(root, list(nn.Linear(3, 4).parameters())) == []  # the whole optimizer is another's
    root.zero_grad()
    assert replaced(root, [*body, *nn.Linear(3, 4).parameters()]) == []  # no gradients
