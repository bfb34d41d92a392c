from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import PredictionCollapse
from lightning_tricks.collapse.neighbours import WIDTH, answers, features_of, nearest, skills
from tests.problems import Classifier, trainer


def digit_rows(n: int = 250) -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.as_tensor(x[:n], dtype=torch.float32), torch.as_tensor(y[:n])


def compared(rows: dict[str, Tensor], **given: bool) -> Tensor:
    return skills(answers(rows, **given))


def test_the_neighbours_are_those_of_another_library() -> None:
    x, _ = digit_rows()
    scaled = ((x - x.mean(0)) / x.std(0).clamp(min=1e-12)).double().numpy()
    found = NearestNeighbors(n_neighbors=7).fit(scaled).kneighbors(scaled, return_distance=False)
    ours = nearest(features_of(x)).numpy()
    # (the first is the sample itself, and the second is left out; equal distances may change places)
    same = [len(set(mine) & set(theirs[2:])) for mine, theirs in zip(ours, found, strict=True)]
    assert numpy.mean(same) > 4.95


def test_skills_are_accuracies_above_that_of_the_commonest_label() -> None:
    x, y = digit_rows()
    logits = nn.functional.one_hot(torch.where(torch.arange(250) < 100, y, 0), 10).float()
    rows = {"logits": logits, "target": y, "inputs": features_of(x)}
    network, neighbours = compared(rows).tolist()
    most = int(torch.bincount(y).max())
    right = int((logits.argmax(1) == y).sum())
    assert network == pytest.approx((right - most) / (250 - most))
    vote = y[nearest(features_of(x))].mode(1).values
    assert neighbours == pytest.approx((int((vote == y).sum()) - most) / (250 - most)) and neighbours > 0.8


def test_a_sample_that_was_drawn_twice_does_not_answer_for_itself() -> None:
    x, noise = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 2
    rows = {"logits": torch.zeros(200, 2), "target": noise.repeat(2), "inputs": features_of(x.repeat(2, 1))}
    assert abs(float(compared(rows)[1])) < 0.3


@pytest.mark.parametrize("probabilities", [False, True])
def test_one_output_for_two_classes_is_judged_as_well(probabilities: bool) -> None:
    x, y = (torch.as_tensor(a, dtype=torch.float32) for a in load_breast_cancer(return_X_y=True))
    output = (2 * y - 1)[:200, None]
    output = output.sigmoid() if probabilities else output
    rows = {"output": output, "values": y[:200, None], "inputs": features_of(x[:200])}
    network, neighbours = compared(rows, logits=not probabilities).tolist()
    assert network == 1.0 and neighbours > 0.7


@pytest.mark.parametrize(
    "rows",
    [
        {"logits": torch.zeros(20, 3), "target": torch.arange(20) % 3, "inputs": torch.full((20, WIDTH), torch.nan)},
        {"logits": torch.zeros(5, 3), "target": torch.arange(5) % 3, "inputs": torch.zeros(5, WIDTH)},
        {"logits": torch.zeros(20, 3), "target": torch.zeros(20).long(), "inputs": torch.zeros(20, WIDTH)},
        {"output": torch.zeros(20, 4), "values": torch.zeros(20, 4), "inputs": torch.zeros(20, WIDTH)},
    ],
    ids=["unknown inputs", "few samples", "one label", "numbers"],
)
def test_where_neighbours_cannot_answer_nothing_is_known(rows: dict[str, Tensor]) -> None:
    assert all(math.isnan(x) for x in compared(rows).tolist())


def test_sums_of_two_processes_are_those_of_both_together() -> None:
    x, y = digit_rows(200)
    parts = [
        {"logits": torch.eye(10)[y[i]], "target": y[i], "inputs": features_of(x[i])}
        for i in torch.arange(200).split(100)
    ]
    one, two = (answers(part) for part in parts)
    both = skills({name: one[name] + two[name] for name in one})
    assert both[0] == 1.0 and 0.7 < float(both[1]) < 1.0
    broken = answers({**parts[0], "inputs": torch.full((100, WIDTH), torch.nan)})
    assert skills({name: broken[name] + two[name] for name in two}).isnan().all()
    few = answers({name: rows[:5] for name, rows in parts[0].items()})
    assert few.keys() == two.keys() and skills({name: few[name] + two[name] for name in two}).isnan().all()


class Stuck(Classifier):
    """Watches answers that are right for a share of the samples, and a fixed other class for the rest."""

    share = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step((batch[0], batch[1]), batch_idx)
        guess = torch.where(torch.rand(len(batch[1])) < self.share, batch[1], (7 * batch[1] + 3) % 10)
        self.watched(nn.functional.one_hot(guess, 10).float())
        return loss


@pytest.mark.parametrize(("share", "cause"), [(0.2, "inputs ignored"), (0.6, "")])
def test_a_network_far_behind_its_nearest_neighbours_is_noticed(share: float, cause: str) -> None:
    x, y = digit_rows(1792)
    module = Stuck()
    module.watched, module.share = nn.Identity(), share
    detector = PredictionCollapse("watched", every_n_steps=4, action="log", grace=8)
    loader = DataLoader(TensorDataset(x / 16, y), batch_size=128)
    trainer([detector], max_epochs=8).fit(module, loader)
    assert str(detector.verdict.cause) == cause
    if cause:
        assert "a vote of the nearest samples, by their raw inputs, has 0.9" in detector.verdict.reasons[0]
