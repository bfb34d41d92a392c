from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy.stats import kstest, pearsonr

from lightning_tricks.collapse.association import (
    Evidence,
    bounded_scores,
    centre_and_scale,
    centred_within,
    fingerprints,
    permutation_test,
    pooled,
    standard_score,
)


def score(similarity: torch.Tensor, part: torch.Tensor, keep: torch.Tensor) -> float:
    return float(standard_score(*permutation_test(similarity, part, keep)))


def test_mean_and_variance_are_those_of_all_permutations_within_batches() -> None:
    """The null distribution by drawing it: targets are dealt out within their batch, and rows that do not count stay."""
    torch.manual_seed(0)
    n, part = 24, torch.tensor([0] * 10 + [1] * 14)
    keep = torch.ones(n, dtype=torch.bool)
    keep[[3, 17]] = False
    similarity = torch.randn(n, n, dtype=torch.float64) + torch.arange(n)[:, None] + 5 * torch.randn(n)
    total, variance = permutation_test(similarity, part, keep)
    drawn = []
    for _ in range(4000):
        order = torch.arange(n)
        for b in (0, 1):
            own = ((part == b) & keep).nonzero().squeeze(1)
            order[own] = own[torch.randperm(len(own))]
        drawn.append(float(similarity[torch.arange(n), order][keep].sum()))
    observed = float(similarity.diagonal()[keep].sum())
    assert observed - numpy.mean(drawn) == pytest.approx(float(total), abs=4 * numpy.std(drawn) / math.sqrt(4000))
    assert float(variance) == pytest.approx(numpy.var(drawn), rel=0.1)


def test_in_one_batch_it_is_the_correlation_times_the_root_of_n_less_1() -> None:
    torch.manual_seed(1)
    f = torch.randn(50, 1, dtype=torch.float64)
    g = f + 3 * torch.randn(50, 1, dtype=torch.float64)
    one = torch.ones(50, dtype=torch.bool)
    wanted = pearsonr(f.squeeze(1), g.squeeze(1)).statistic * math.sqrt(49)
    assert score(f @ g.T, torch.zeros(50), one) == pytest.approx(wanted)


def test_without_a_signal_the_score_is_standard_normal_whatever_the_distributions_are() -> None:
    torch.manual_seed(2)
    one, scores = torch.ones(256, dtype=torch.bool), []
    part = torch.arange(256) // 32
    for _ in range(300):
        p = torch.distributions.Dirichlet(torch.tensor([20.0, 0.5, 0.1])).sample((256,))
        label = (torch.rand(256) < 0.05).long()
        scores.append(score(p[:, label], part, one))
    assert kstest(scores, "norm").pvalue > 0.01


def test_outputs_that_move_with_the_labels_of_the_last_batch_know_nothing() -> None:
    """Constant in each batch, and right on average over batches: only within batches it is seen that nothing is known."""
    part = torch.arange(128) // 32
    label = (part % 2).long()
    label[::8] = 1 - label[::8]
    p = torch.stack([1 - part % 2, part % 2], 1).float() * 0.4 + 0.3
    one = torch.ones(128, dtype=torch.bool)
    assert score(p[:, label], torch.zeros(128), one) > 5
    assert score(p[:, label], part, one) == 0.0


def test_a_single_row_far_out_does_not_decide() -> None:
    torch.manual_seed(3)
    f, g = torch.randn(400, 1), torch.randn(400, 1)
    g += 0.3 * f
    wild = g.clone()
    wild[0] = 1e8
    one, part = torch.ones(400, dtype=torch.bool), torch.zeros(400)

    def robust(x: torch.Tensor, y: torch.Tensor) -> float:
        a, b = (bounded_scores(v, *centre_and_scale(v, one)) for v in (x, y))
        return score(a @ b.T, part, one)

    assert robust(f, g) > 3
    assert robust(f, wild) == pytest.approx(robust(f, g), abs=0.5)


def test_rows_are_centred_in_their_batch_and_those_that_do_not_count_are_zeros() -> None:
    values, part = torch.randn(9, 2), torch.tensor([0, 1, 0, 1, 2, 0, 1, 2, 2])
    keep = torch.tensor([True] * 8 + [False])
    centred = centred_within(values, part, keep)
    for b in range(3):
        own = (part == b) & keep
        torch.testing.assert_close(centred[own], values[own] - values[own].mean(0))
    assert not centred[8].any()


def test_equal_samples_have_equal_fingerprints_wherever_they_are_in_a_batch() -> None:
    samples = torch.randn(64, 3, 8, 8)
    order = torch.randperm(64)
    assert torch.equal(fingerprints(samples)[order], fingerprints(samples[order]))
    assert len(fingerprints(samples).unique()) == 64
    tokens = torch.randint(50, (200, 12))
    assert len(fingerprints(tokens).unique()) == len(tokens.unique(dim=0))


def test_evidence_grows_with_checks_and_samples_seen_before_are_none() -> None:
    evidence, state = Evidence(), Evidence().init()
    for _ in range(16):
        found, state = evidence.update(1.0, 100.0, state)
    assert found == pytest.approx(4.0), "16 scores of 1 are sqrt(16)"
    assert pooled(state["last"]) == pytest.approx(math.sqrt(8))
    again, same = evidence.update(50.0, 100.0, state, seen=0.5)
    assert again == found
    assert same == state
    found, state = evidence.update(math.nan, 100.0, state)
    assert state["samples"] == 1700.0
    assert found < 4.0
