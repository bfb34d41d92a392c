from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import numpy
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_friedman1
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import PredictionCollapse, Verdict
from lightning_tricks.collapse.neighbours import WIDTH, features_of, nearest
from lightning_tricks.collapse.references import SKILLS, answers, best, skills
from tests.problems import trainer


def beside(rows: dict[str, Tensor], inputs: Tensor | None = None, ids: Tensor | None = None) -> dict[str, Tensor]:
    n = len(next(iter(rows.values())))
    return {
        **rows,
        "part": torch.zeros(n, dtype=torch.int64),
        "inputs": torch.full((n, WIDTH), torch.nan) if inputs is None else features_of(inputs),
        "ids": torch.zeros(n, 0, dtype=torch.int64) if ids is None else ids,
        "explained": torch.ones(n, dtype=torch.bool),
    }


def digit_rows(n: int = 250) -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.as_tensor(x[:n], dtype=torch.float32), torch.as_tensor(y[:n])


def compared(rows: dict[str, Tensor], kind: str, **given: bool) -> tuple[float, float, float]:
    found = skills(answers(rows, **given))
    assert found.numel() == SKILLS
    return best(found.reshape(-1).tolist(), kind)


def test_skills_of_classes_are_accuracies_above_that_of_the_commonest_label() -> None:
    x, y = digit_rows()
    logits = nn.functional.one_hot(torch.where(torch.arange(250) < 100, y, 0), 10).float()
    network, neighbours, which = compared(beside({"logits": logits, "target": y}, x), "classes")
    most = int(torch.bincount(y).max())
    right = int((logits.argmax(1) == y).sum())
    assert network == pytest.approx((right - most) / (250 - most)) and which == 0
    vote = y[nearest(features_of(x))].mode(1).values
    assert neighbours == pytest.approx((int((vote == y).sum()) - most) / (250 - most)) and neighbours > 0.8


@pytest.mark.parametrize("units", [1.0, -1000.0])
def test_skills_of_numbers_are_squared_correlations_of_bounded_scores_in_any_units(units: float) -> None:
    x, y = (torch.as_tensor(a[:250], dtype=torch.float32) for a in load_diabetes(return_X_y=True))
    output = units * (x[:, 2] + 0.02 * torch.randn(250, generator=torch.Generator().manual_seed(0)))
    rows = beside({"output": output[:, None], "values": y[:, None]}, x)
    network, neighbours, _ = compared(rows, "numbers")

    def scores(values: Tensor) -> numpy.ndarray:
        away = values.numpy() - numpy.median(values.numpy())
        away = away / numpy.median(abs(away))
        return away / (1 + abs(away))

    mean = y[nearest(features_of(x))].mean(1)
    # (of an even number of values torch's median is the lower one of the middle two)
    assert network == pytest.approx(stats.pearsonr(scores(output), scores(y)).statistic ** 2, abs=5e-3)
    assert neighbours == pytest.approx(stats.pearsonr(scores(mean), scores(y)).statistic ** 2, abs=5e-3)
    assert neighbours > 0.2


@pytest.mark.parametrize("classes", [3, 900], ids=["few classes", "more classes than rows"])
def test_rows_with_the_same_ids_answer_for_each_other(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(12, (400, 1), generator=generator)
    says = torch.randint(classes, (12,), generator=generator)
    noise = torch.randint(classes, (400,), generator=generator)
    y = torch.where(torch.rand(400, generator=generator) < 0.8, says[ids[:, 0]], noise)
    network, reference, which = compared(beside({"logits": torch.zeros(400, classes), "target": y}, ids=ids), "classes")
    most = int(torch.bincount(y).max())
    counts = numpy.zeros((12, classes))
    numpy.add.at(counts, (ids[:, 0].numpy(), y.numpy()), 1)
    # (twelve counts of some thirty rows each: without the row itself, the commonest label stays the same)
    right = int((counts.argmax(1)[ids[:, 0].numpy()] == y.numpy()).sum())
    assert reference == pytest.approx((right - most) / (400 - most), abs=0.02) and which == 1 and network <= 0


def test_effects_of_several_tables_are_added() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (500, 2), generator=generator)
    effects = torch.randn(2, 20, generator=generator)
    y = effects[0, ids[:, 0]] + effects[1, ids[:, 1]] + 0.1 * torch.randn(500, generator=generator)
    rows = {"output": torch.zeros(500, 1), "values": y[:, None]}
    both = compared(beside(rows, ids=ids), "numbers")[1]
    one = compared(beside(rows, ids=ids[:, :1]), "numbers")[1]
    assert both > 0.8 and one < 0.6


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_chance_answers_nothing(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, ids = torch.randn(500, 8, generator=generator), torch.randint(100, (500, 3), generator=generator)
    y = torch.randint(4, (500,), generator=generator)
    rows = {"logits": torch.zeros(500, 4), "target": y}
    rows = {"output": torch.zeros(500, 1), "values": y[:, None].float()} if kind == "numbers" else rows
    found = skills(answers(beside(rows, x, ids)))[:, int(kind == "numbers"), 1]
    assert (found < 0.05).all()


def test_a_sample_that_was_drawn_twice_does_not_answer_for_itself() -> None:
    x, noise = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 2
    rows = beside({"logits": torch.zeros(200, 2), "target": noise.repeat(2)}, x.repeat(2, 1))
    assert abs(compared(rows, "classes")[1]) < 0.3


@pytest.mark.parametrize("probabilities", [False, True])
def test_one_output_for_two_classes_is_judged_as_well(probabilities: bool) -> None:
    x, y = (torch.as_tensor(a, dtype=torch.float32) for a in load_breast_cancer(return_X_y=True))
    output = (2 * y - 1)[:200, None]
    output = output.sigmoid() if probabilities else output
    rows = beside({"output": output, "values": y[:200, None]}, x[:200])
    network, neighbours, _ = compared(rows, "classes", logits=not probabilities)
    assert network == 1.0 and neighbours > 0.7


CLASSES = {"logits": torch.zeros(99, 3), "target": torch.arange(99) % 3}
NUMBERS = {"output": torch.zeros(99, 1), "values": torch.randn(99, 1, generator=torch.Generator().manual_seed(0))}


def first(rows: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: tensor[:n] for name, tensor in rows.items()}


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (beside(CLASSES), "classes"),
        (beside(first(CLASSES, 5), torch.zeros(5, 2), torch.zeros(5, 1).long()), "classes"),
        (beside(first(CLASSES, 60), torch.zeros(60, 2), torch.zeros(60, 1).long()), "classes"),
        (beside(first(NUMBERS, 60), torch.zeros(60, 2), torch.zeros(60, 1).long()), "numbers"),
        (beside({**CLASSES, "target": torch.zeros(99).long()}, torch.zeros(99, 2)), "classes"),
        (beside({**CLASSES, "target": torch.full((99,), -100)}, torch.zeros(99, 2)), "classes"),
        (beside({**NUMBERS, "values": torch.zeros(99, 1)}, torch.zeros(99, 2)), "numbers"),
        (beside({**NUMBERS, "output": torch.zeros(99, 3)}, torch.zeros(99, 2)), "numbers"),
        (beside(NUMBERS, torch.zeros(99, 2)), "labels"),
        ({**beside(NUMBERS, torch.zeros(99, 2)), "explained": torch.arange(99) != 3}, "numbers"),
    ],
    ids=[
        "inputs",
        "few",
        "fewer than 64",
        "few numbers",
        "one label",
        "no label",
        "one number",
        "quantiles",
        "labels",
        "unexplained",
    ],
)
def test_where_a_reference_cannot_answer_nothing_is_known(rows: dict[str, Tensor], kind: str) -> None:
    assert all(math.isnan(x) for x in compared(rows, kind)[:2])


def test_sums_of_two_processes_are_those_of_both_together() -> None:
    x, y = digit_rows(200)
    of = {"logits": torch.eye(10)[y], "target": y}
    parts = [
        {name: rows[i] for name, rows in beside(of, x, y[:, None] // 2).items()} for i in torch.arange(200).split(100)
    ]
    one, two = (answers(part) for part in parts)
    both = skills({name: one[name] + two[name] for name in one})
    assert both[0, 0, 0] == both[1, 0, 0] == 1.0 and 0.7 < float(both[0, 0, 1]) < 1.0 and float(both[1, 0, 1]) < 0.8
    broken = answers({**parts[0], "inputs": torch.full((100, WIDTH), torch.nan)})
    assert skills({name: broken[name] + two[name] for name in two})[0].isnan().all()
    few = answers({name: rows[:5] for name, rows in parts[0].items()})
    assert few.keys() == two.keys() and skills({name: few[name] + two[name] for name in two}).isnan().all()
    assert [t.shape for t in few.values()] == [t.shape for t in two.values()]


# -- trainings --------------------------------------------------------------------------------------------------------


class Ratings(nn.Module):
    """A sum of embeddings of who and of what, beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.who, self.what, self.out = nn.Embedding(15, 1), nn.Embedding(12, 1), nn.Linear(4, 1)

    def forward(self, batch: Any) -> Tensor:
        return self.out(torch.cat([self.who(batch[0]), self.what(batch[1]), batch[2]], 1)).squeeze(1)


class Tokens(nn.Module):
    """Answers for each token from the token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 16), nn.Linear(16, 9)
        self.place = nn.Embedding(12, 16)

    def forward(self, batch: Any) -> Tensor:
        tokens = batch[0]
        return self.out(self.embed(tokens) + self.place(torch.arange(12).expand_as(tokens))).transpose(1, 2)


class First(nn.Sequential):
    """Answers from the first tensor of a batch."""

    def forward(self, batch: Any) -> Tensor:
        return super().forward(batch[0]).squeeze(1)


def ratings(generator: torch.Generator) -> tuple[Tensor, ...]:
    who, what = (torch.randint(n, (2048,), generator=generator) for n in (15, 12))
    effects, x = torch.randn(2, 15, generator=generator), torch.randn(2048, 2, generator=generator)
    return who, what, x, effects[0, who] + effects[1, what] + 0.3 * x[:, 0]


def friedman(generator: torch.Generator) -> tuple[Tensor, ...]:
    x, y = (torch.as_tensor(a, dtype=torch.float32) for a in make_friedman1(2048, 6, random_state=0))
    return x, y


def digits(generator: torch.Generator) -> tuple[Tensor, ...]:
    x, y = digit_rows(1792)
    return x / 16, y


def tagged(generator: torch.Generator) -> tuple[Tensor, ...]:
    tokens = torch.randint(9, (512, 12), generator=generator)
    chance = torch.randint(9, tokens.shape, generator=generator)
    return tokens, torch.where(torch.rand(tokens.shape, generator=generator) < 0.7, (4 * tokens + 1) % 9, chance)


def mlp(inputs: int, outputs: int, dropout: float = 0.0) -> First:
    return First(nn.Linear(inputs, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, outputs))


class Answers(L.LightningModule):
    """A network and data.

    Args:
        net: the network.
        rate: of Adam.
        fault: ``"tables"`` are not in the optimizer; all but two ``"inputs"`` are 0.
    """

    def __init__(self, net: nn.Module, rate: float, fault: str = "") -> None:
        super().__init__()
        self.net, self.rate, self.fault = net, rate, fault

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        *given, target = batch
        if self.fault == "inputs":
            given[0] = given[0] * (torch.arange(given[0].shape[1]) >= given[0].shape[1] - 2)
        output = self.net([*given, target])
        loss = nn.functional.cross_entropy if output.ndim > target.ndim else nn.functional.mse_loss
        return {"loss": loss(output, target), "logits": output, "target": target}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learns = self.net.out if self.fault == "tables" else self.net
        return torch.optim.Adam(learns.parameters(), lr=self.rate)


def followed(module: L.LightningModule, data: tuple[Tensor, ...], batch: int) -> Verdict:
    detector = PredictionCollapse("logits", "target", every_n_steps=5, action="log", grace=20)
    loader = DataLoader(TensorDataset(*data), batch_size=batch, shuffle=True)
    trainer([detector], max_steps=200, max_epochs=-1).fit(module, loader)
    return detector.verdict


@pytest.mark.parametrize(
    ("data", "make", "rate", "fault", "told"),
    [
        (ratings, Ratings, 1e-2, "tables", "the mean of other rows, by the ids that are looked up"),
        (friedman, lambda: mlp(6, 1), 1e-2, "inputs", "the mean of the nearest samples, by their raw inputs"),
        (digits, lambda: mlp(64, 10), 1e-3, "inputs", "a vote of the nearest samples, by their raw inputs"),
        (tagged, Tokens, 1e-4, "", "a vote of other rows, by the ids that are looked up"),
    ],
    ids=["tables", "numbers", "classes", "tokens, a small rate"],
)
def test_a_network_far_behind_a_trivial_learner_is_noticed(
    data: Any, make: Any, rate: float, fault: str, told: str
) -> None:
    torch.manual_seed(0)
    found = data(torch.Generator().manual_seed(0))
    verdict = followed(Answers(make(), rate, fault), found, 64)
    assert verdict.alarmed
    assert verdict.cause == "inputs ignored" and told in verdict.reasons[0], verdict


@pytest.mark.parametrize(
    ("data", "make", "rate"),
    [
        (ratings, Ratings, 1e-2),
        (friedman, lambda: mlp(6, 1, 0.5), 1e-2),
        (digits, lambda: mlp(64, 10, 0.8), 1e-3),
        (tagged, Tokens, 1e-2),
    ],
    ids=["ratings", "numbers, dropout", "classes, much dropout", "tokens"],
)
def test_a_network_that_answers_as_well_is_left_alone(data: Any, make: Any, rate: float) -> None:
    torch.manual_seed(0)
    assert not followed(Answers(make(), rate), data(torch.Generator().manual_seed(0)), 64).alarmed


def test_what_a_trivial_learner_makes_of_the_rows_is_asked_until_the_task_is_learned_and_again_after_a_fall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The comparison is half of a check's cost, and nothing is far ahead of a network that answers well."""
    torch.manual_seed(0)
    data = digits(torch.Generator())
    module, asked = Answers(mlp(64, 10), 3e-3), []
    detector = PredictionCollapse("logits", "target", every_n_steps=5, action="log", grace=20)

    def counted(*args: Any, **options: Any) -> Any:
        asked.append(step.trainer.global_step)
        return answers(*args, **options)

    class Falls(L.Callback):
        trainer: L.Trainer

        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.trainer = trainer
            if trainer.global_step == 250:
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)

    step = Falls()
    monkeypatch.setattr("lightning_tricks.collapse.references.answers", counted)
    loader = DataLoader(TensorDataset(*data), batch_size=64, shuffle=True)
    trainer([detector, step], max_steps=300, max_epochs=-1).fit(module, loader)
    early = [at for at in asked if at <= 100]
    assert early and not [at for at in asked if 100 < at <= 250]
    assert [at for at in asked if at > 250]
