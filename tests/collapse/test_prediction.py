from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import f1_score, mutual_info_score

from lightning_tricks.collapse import prediction


def test_entropies_and_divergences_are_scipys() -> None:
    p, q = numpy.array([0.2, 0.5, 0.3, 0.0]), numpy.array([0.25, 0.25, 0.25, 0.25])
    a, b = torch.tensor(p), torch.tensor(q)
    assert prediction.entropy(a).item() == pytest.approx(scipy_entropy(p))
    assert prediction.kullback_leibler(a, b).item() == pytest.approx(scipy_entropy(p, q))
    assert prediction.kullback_leibler(b, a).item() == math.inf
    assert prediction.jensen_shannon(a, b).item() == pytest.approx(jensenshannon(p, q, base=2) ** 2)


def test_the_best_constant_answer_has_skill_0() -> None:
    labels = torch.tensor([10.0, 30.0, 60.0])
    best = -(prediction.shares(labels) * prediction.shares(labels).log()).sum()
    assert prediction.skill(best, labels).item() == pytest.approx(0.0, abs=1e-6)
    assert prediction.skill(torch.tensor(0.0), labels) == 1
    assert prediction.skill(2 * best, labels) < 0
    assert prediction.skill(best, torch.tensor([5.0, 0.0])).isnan(), "one class: nothing to predict"


def test_input_dependence_of_certain_predictions_is_their_mutual_information() -> None:
    draw = numpy.random.default_rng(0)
    inputs, guess = draw.integers(0, 4, 500), draw.integers(0, 4, 500)
    guess[:250] = inputs[:250]
    one_hot = torch.nn.functional.one_hot(torch.tensor(guess), 4).double()
    labels = torch.bincount(torch.tensor(inputs)).double()
    got = prediction.input_dependence(one_hot.mean(0), torch.tensor(0.0), labels)
    # each sample is an input of its own: the information is the entropy of the guesses
    assert got.item() == pytest.approx(mutual_info_score(guess, guess) / scipy_entropy(labels.numpy()))
    assert prediction.input_dependence(one_hot.mean(0), prediction.entropy(one_hot.mean(0)), labels) == 0


def test_macro_f1_is_scikit_learns() -> None:
    draw = numpy.random.default_rng(1)
    target, guess = draw.integers(0, 5, 200), draw.integers(0, 5, 200)
    counts = [torch.bincount(torch.tensor(x), minlength=5).double() for x in (guess[guess == target], guess, target)]
    assert prediction.macro_f1(*counts).item() == pytest.approx(f1_score(target, guess, average="macro"))
    constant = numpy.full(200, numpy.bincount(target).argmax())
    got = prediction.trivial_macro_f1(counts[2]).item()
    assert got == pytest.approx(f1_score(target, constant, average="macro", zero_division=0))
