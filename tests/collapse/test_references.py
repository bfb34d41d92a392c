from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn

from lightning_tricks.collapse.neighbours import WIDTH, features_of, nearest
from lightning_tricks.collapse.references import SKILLS, answers, best, skills


def beside(rows: dict[str, Tensor], inputs: Tensor | None = None, ids: Tensor | None = None) -> dict[str, Tensor]:
    n = len(next(iter(rows.values())))
    return {
        **rows,
        "part": torch.zeros(n, dtype=torch.int64),
        "inputs": torch.full((n, WIDTH), torch.nan) if inputs is None else features_of(inputs),
        "ids": torch.zeros(n, 0, dtype=torch.int64) if ids is None else ids,
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
    ],
    ids=["inputs", "few", "fewer than 64", "few numbers", "one label", "no label", "one number", "quantiles", "labels"],
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
