from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lightning_tricks import SanityCheck
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.schedule_arguments import Schedule, misplanned
from tests.problems import Classifier, digits, trainer


def optimizer(lr: float = 0.01) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=lr)


Maker = Callable[[SGD], Any]
WRONG: dict[str, tuple[Maker, dict[str, Any], str]] = {
    "a floor above the rate": (lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=0.5), {}, "up to eta_min=0.5"),
    "restarts with a floor above": (
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 10, eta_min=0.5),
        {},
        "CosineAnnealingWarmRestarts goes from 0.01 up",
    ),
    "a gamma above 1": (lambda o: schedulers.ExponentialLR(o, 1.05), {}, "multiplies the rate by gamma=1.05"),
    "steps up": (lambda o: schedulers.StepLR(o, 5, gamma=10.0), {}, "gamma=10"),
    "a loss that should rise": (
        lambda o: schedulers.ReduceLROnPlateau(o, mode="max"),
        {"monitor": "val/loss"},
        "mode='max') follows 'val/loss'",
    ),
    "an accuracy that should fall": (
        lambda o: schedulers.ReduceLROnPlateau(o),
        {"monitor": "val_accuracy"},
        "mode='min') follows 'val_accuracy'",
    ),
    "once in an epoch": (
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=1000),
        {"steps": 10.0, "updates": 1000.0},
        "made for 1,000 steps, and advanced 10 times",
    ),
    "a rate for a factor": (
        lambda o: schedulers.LambdaLR(o, lambda step: 1e-3 * (1 - step / 100)),
        {"steps": 100.0, "interval": "step"},
        "multiplies the rate 0.01 by 0.001 at most",
    ),
}
RIGHT: dict[str, tuple[Maker, dict[str, Any]]] = {
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=1e-5), {}),
    "cosine to the rate itself": (lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=0.01), {}),
    "decay": (lambda o: schedulers.ExponentialLR(o, 0.9), {}),
    "loss": (lambda o: schedulers.ReduceLROnPlateau(o), {"monitor": "val_loss"}),
    "accuracy": (lambda o: schedulers.ReduceLROnPlateau(o, mode="max"), {"monitor": "val_acc"}),
    "something else": (lambda o: schedulers.ReduceLROnPlateau(o, mode="max"), {"monitor": "elbo"}),
    "loss of accuracy": (lambda o: schedulers.ReduceLROnPlateau(o, mode="max"), {"monitor": "acc_loss"}),
    "one cycle": (
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=1000),
        {"steps": 1000.0, "updates": 1000.0, "interval": "step"},
    ),
    "one cycle of epochs": (
        lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=10),
        {"steps": 10.0, "updates": 1000.0},
    ),
    "warm-up": (
        lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 90)),
        {"steps": 100.0, "interval": "step"},
    ),
    "a function that raises": (
        lambda o: schedulers.LambdaLR(o, lambda step: [1e-3, 1e-3][step]),
        {"steps": 100.0},
    ),
    "a warm-up beyond the run": (
        lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, (step + 1) / 500)),
        {"steps": 1.0, "interval": "step"},
    ),
    "no known end": (lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step), {"steps": math.inf}),
    "in sequence": (
        lambda o: schedulers.SequentialLR(
            o, [schedulers.LinearLR(o, 0.1), schedulers.CosineAnnealingLR(o, 10)], milestones=[5]
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_schedule_cannot_mean_is_named(name: str) -> None:
    make, more, words = WRONG[name]
    own = optimizer()
    found = misplanned([Schedule(make(own), **more)], [own])
    assert found is not None and found.name == "learning rate schedule"
    assert found.passed is (None if name == "once in an epoch" else False)
    assert words in found.evidence and found.fix


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.filterwarnings("ignore")
def test_what_a_schedule_can_mean_is_left_alone(name: str) -> None:
    make, more = RIGHT[name]
    own = optimizer()
    assert misplanned([Schedule(make(own), **more)], [own]) is None


def test_noams_schedule_multiplies_a_unit() -> None:
    own = optimizer(lr=1.0)
    noam = schedulers.LambdaLR(own, lambda step: 512**-0.5 * min((step + 1) ** -0.5, (step + 1) * 4000**-1.5))
    assert misplanned([Schedule(noam, interval="step", steps=1e5)], [own]) is None


def test_a_scheduler_of_an_optimizer_that_was_thrown_away_is_named() -> None:
    own, other = optimizer(), optimizer()
    found = misplanned([Schedule(schedulers.StepLR(other, 5))], [own])
    assert found is not None and "does not return" in found.evidence

    class Wrapper:
        param_groups = own.param_groups

    assert misplanned([Schedule(schedulers.StepLR(own, 5))], [Wrapper()]) is None


def checks(module: Any, loader: DataLoader[Any] | None = None, **given: Any) -> dict[str, Check]:
    check = SanityCheck()
    check.prints = False
    trainer([check], **{"max_epochs": 2, **given}).fit(module, loader or DataLoader(digits(1792), batch_size=64))
    return {c.name: c for c in check.checks}


class Planned(Classifier):
    """Its schedule, and how Lightning advances it, are given."""

    def __init__(self, make: Any, **config: Any) -> None:
        super().__init__()
        self.make, self.config = make, config

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make(optimizer), **self.config}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "mark", "words"),
    [
        (Planned(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=56)), "?", "advanced 2 times"),
        (
            Planned(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=56), interval="step"),
            "pass",
            "nothing in the arguments of OneCycleLR contradicts the run",
        ),
        (Planned(lambda o: schedulers.LambdaLR(o, lambda epoch: 0.06 * 0.9**epoch)), "pass", "nothing"),
        (Planned(lambda o: schedulers.LambdaLR(o, lambda epoch: 0.01 * 0.9**epoch)), "FAIL", "by 0.01 at most"),
    ],
    ids=["once in an epoch", "at each step", "of some size", "a rate for a factor"],
)
def test_the_schedule_is_compared_with_the_run(module: Any, mark: str, words: str) -> None:
    found = checks(module)["learning rate schedule"]
    assert found.mark == mark and words in found.evidence


def test_without_a_schedule_there_is_no_such_row() -> None:
    assert "learning rate schedule" not in checks(Classifier())


class Manual(Planned):
    """Steps by itself."""

    def __init__(self, make: Any) -> None:
        super().__init__(make)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        optimizer.step()


def test_with_manual_optimization_the_schedule_is_looked_at_as_well() -> None:
    module = Manual(lambda o: schedulers.CosineAnnealingLR(o, 10, eta_min=0.5))
    assert checks(module)["learning rate schedule"].mark == "FAIL"


class Remade(Classifier):
    """Makes its targets inside the step, from the labels of the batch."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), self.target(batch[1])) + 0.01 * self.net[0].weight.square().mean()


@pytest.mark.parametrize(
    ("target", "mark"),
    [(lambda y: (y * 0.01).long(), "FAIL"), (lambda y: (y + 1) % 10, None), (lambda y: y.flip(0).flip(0) * 1, None)],
    ids=["all 0", "another order", "a copy"],
)
def test_labels_that_the_step_makes_all_the_same_are_nothing_to_learn(target: Any, mark: str | None) -> None:
    found = checks(Remade(target)).get("labels follow from inputs")
    if mark is None:
        assert found is None or found.mark != "FAIL"
    else:
        assert found is not None and found.mark == mark and "labels are 0, of 10 classes" in found.evidence


class Contrast(Classifier):
    """The right answer stands first, as in a queue of negatives: labels are all 0, and inputs decide."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        one, two = (F.normalize(self.net(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1) for _ in range(2))
        right, wrong = (one * two).sum(1, keepdim=True), one @ two.roll(1, 0).T
        logits = torch.cat([right, wrong], 1) / 0.2
        return F.cross_entropy(logits, torch.zeros(len(one), dtype=torch.long))


def test_a_right_answer_that_always_stands_first_is_no_fault() -> None:
    found = checks(Contrast()).get("labels follow from inputs")
    assert found is None or found.mark != "FAIL"


class Given(Classifier):
    """Its loss function gets something else than it takes."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loss", "row", "words"),
    [
        (
            lambda out, y: F.kl_div(out.softmax(1), F.one_hot(y, 10).float().mul(0.9).add(0.01)),
            "initial loss",
            "the first argument of kl_div holds probabilities",
        ),
        (lambda out, y: F.nll_loss(out.softmax(1), (y + 1) % 10), "initial loss", "nll_loss is given probabilities"),
        (
            lambda out, y: F.mse_loss(out[:, :1], (y + 1.0) / 10),
            "shapes of outputs and labels",
            "compares (64, 64) pairs",
        ),
    ],
    ids=["kl_div", "nll_loss", "mse_loss"],
)
def test_what_a_loss_function_cannot_take_is_found_whatever_makes_it(loss: Any, row: str, words: str) -> None:
    found = checks(Given(loss))[row]
    assert found.mark == "FAIL" and words in found.evidence


@pytest.mark.parametrize(("inverse", "mark"), [(True, "pass"), (False, "FAIL")])
def test_weights_of_a_sampler_that_make_rare_classes_rarer_are_found(inverse: bool, mark: str) -> None:
    data = digits(1792)
    labels = torch.tensor([int(y) for _, y in data])
    rows = torch.cat([(labels == 0).nonzero().flatten()[:20], (labels != 0).nonzero().flatten()])
    x, y = torch.stack([data[int(i)][0] for i in rows]), (labels[rows] == 0).long()
    count = torch.bincount(y).double()
    sampler = WeightedRandomSampler(((1 / count) if inverse else count)[y].tolist(), len(y))
    module = Classifier()
    module.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    found = checks(module, DataLoader(TensorDataset(x, y), batch_size=64, sampler=sampler))["data are shuffled"]
    assert found.mark == mark
    if not inverse:
        assert "make class 1 rarer" in found.evidence
