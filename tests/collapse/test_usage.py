from __future__ import annotations

import itertools
import math

import numpy
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_tricks.collapse import usage

INF = math.inf


def read(rows: Tensor, parts: int = 3, least: float = 0.05) -> dict[str, float]:
    sums: dict[str, Tensor] = {"effective": torch.tensor(float(len(rows)))}
    for part in rows.tensor_split(parts):
        usage.add_assignments(sums, part)
    return usage.read_usage(usage.measured_usage(sums, least).tolist())[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 300), st.integers(0, 2**31))
def test_the_perplexity_is_that_of_scipy(entries: int, samples: int, seed: int) -> None:
    numbers = torch.randint(entries, (samples,), generator=torch.Generator().manual_seed(seed))
    counts = usage.counted_entries(numbers, entries)
    wanted = numpy.bincount(numbers.numpy(), minlength=entries)
    assert counts.tolist() == wanted.tolist()
    assert float(usage.perplexity(counts)) == pytest.approx(math.exp(scipy.stats.entropy(wanted)), rel=1e-5)
    assert float(usage.unused_share(counts)) == pytest.approx((wanted == 0).mean())


def test_entropies_of_rows_are_those_of_torch_and_scipy() -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(300, 7)
    p = logits.double().softmax(1)
    for rows, temperature in ((logits, 1.0), (logits.softmax(1), 1.0), (10 * logits, 10.0)):
        values = read(rows)
        if temperature == 1.0:
            wanted = torch.distributions.Categorical(p).entropy().mean()
            assert values["conditional_entropy"] == pytest.approx(float(wanted), rel=1e-5)
            assert values["marginal_entropy"] == pytest.approx(scipy.stats.entropy(p.mean(0).numpy()), rel=1e-5)
        counts = numpy.bincount(logits.argmax(1).numpy(), minlength=7)
        assert values["perplexity"] == pytest.approx(math.exp(scipy.stats.entropy(counts)), rel=1e-5)
        assert values["top_entry"] == counts.argmax() and values["samples"] == 300
    assert usage.information_share(read(logits)) == pytest.approx(
        (scipy.stats.entropy(p.mean(0).numpy()) - float(torch.distributions.Categorical(p).entropy().mean()))
        / math.log(7),
        rel=1e-4,
    )


@pytest.mark.parametrize(("samples", "entries"), [(1, 3), (4, 2), (5, 4), (7, 3)])
def test_what_samples_can_show_is_the_mean_over_all_outcomes(samples: int, entries: int) -> None:
    used, entropies = [], []
    for outcome in itertools.product(range(entries), repeat=samples):
        counts = numpy.bincount(outcome, minlength=entries)
        used.append((counts > 0).sum())
        entropies.append(scipy.stats.entropy(counts))
    assert usage.expected_used(samples, entries) == pytest.approx(numpy.mean(used), rel=1e-9)
    assert usage.expected_perplexity(samples, entries) == pytest.approx(math.exp(numpy.mean(entropies)), rel=1e-9)


@pytest.mark.parametrize(("samples", "entries"), [(500, 1000), (5000, 100), (4000, 80), (4001, 79)])
def test_what_samples_can_show_is_what_draws_show(samples: int, entries: int) -> None:
    draw = numpy.random.default_rng(0)
    drawn = [numpy.bincount(draw.integers(entries, size=samples), minlength=entries) for _ in range(50)]
    assert usage.expected_used(samples, entries) == pytest.approx(numpy.mean([(c > 0).sum() for c in drawn]), rel=0.01)
    shown = math.exp(numpy.mean([scipy.stats.entropy(c) for c in drawn]))
    assert usage.expected_perplexity(samples, entries) == pytest.approx(shown, rel=0.01)


def test_uniform_use_of_a_codebook_larger_than_the_window_is_full_use() -> None:
    numbers = torch.randint(8192, (512,), generator=torch.Generator().manual_seed(0))
    sums = {"votes": usage.counted_entries(numbers, 8192), "effective": torch.tensor(512.0)}
    values, shares = usage.read_usage(usage.measured_usage(sums, 0.01).tolist())
    assert values["unused_share"] > 0.9
    assert values["usage"] > 0.95 and values["balance"] > 0.95 and values["capacity"] > 0.99
    assert len(shares) == usage.SHOWN and "conditional_entropy" not in values


@pytest.mark.parametrize(
    ("rows", "normal"),
    [
        ([[0.2, 0.8], [1.0, 0.0]], True),
        ([[1.0, 0.0], [0.0, 1.0]], True),  # one-hot
        ([[1.0 + 1e-6, -1e-6], [0.0, 1.0]], True),  # straight-through
        ([[0.2, 0.8], [1.0, 1.0]], False),
        ([[0.5, 1.5], [-0.5, 1.5]], False),
        ([[0.0, 0.0], [0.0, 0.0]], False),
    ],
)
def test_rows_are_probabilities_where_all_are_positive_and_sum_to_one(rows: list[list[float]], normal: bool) -> None:
    given = torch.tensor(rows)
    p, told = usage.as_probabilities(given)
    assert bool(told) is normal
    torch.testing.assert_close(p, given.clamp(0, 1) if normal else given.softmax(1), atol=1e-5, rtol=0)


def test_probabilities_in_bfloat16_are_probabilities() -> None:
    rows = torch.randn(500, 300).softmax(1).bfloat16()
    assert bool(usage.as_probabilities(rows.float())[1])


def test_logits_that_are_equal_have_chosen_nothing_yet() -> None:
    values = read(torch.zeros(100, 8))
    assert values["usage"] == values["capacity"] == 1.0 and values["perplexity"] == pytest.approx(8.0)


def test_masked_rows_are_left_out_and_broken_ones_are_told() -> None:
    torch.manual_seed(0)
    rows = torch.randn(60, 5)
    padded = torch.cat([rows, torch.full((30, 5), -INF)])
    assert read(padded)["samples"] == 60 and read(padded)["finite"] == 1.0
    for name in ("conditional_entropy", "marginal_entropy", "perplexity"):
        assert read(padded)[name] == pytest.approx(read(rows)[name], rel=1e-5)
    masked = torch.where(torch.arange(5) < 2, rows, -INF)  # actions that are not allowed
    assert read(masked)["finite"] == 1.0 and read(masked)["perplexity"] <= 2.0 + 1e-6
    for bad in (math.nan, INF):
        broken = rows.clone()
        broken[3, 2] = bad
        assert read(broken)["finite"] == 0.0 and math.isfinite(read(broken)["perplexity"])


def test_a_rare_code_is_in_use_and_a_starved_expert_is_not() -> None:
    counts = torch.tensor([2000.0, 30.0, 0.0, 0.0])
    assert int(usage.live_entries(counts, 0.01)) == 2 and int(usage.live_entries(counts, 0.5)) == 1
    few = torch.tensor([127.0, 1.0])  # of 128 samples 2.5 % are expected from an expert with 5 % of its fair share
    assert int(usage.live_entries(few, 0.05)) == 2, "one sample is within two standard errors of enough"
    assert int(usage.live_entries(torch.tensor([10_000.0, 10.0]), 0.05)) == 1


def test_whole_numbers_are_taken_before_vectors_and_vectors_before_nothing() -> None:
    vectors, codes = torch.randn(2, 3, 4), torch.randint(9, (2, 3))
    for output in ((vectors, codes, torch.tensor(0.1)), {"z": vectors, "codes": codes}, [vectors, {"codes": codes}]):
        assert usage.assignments_of(output) is codes or torch.equal(usage.assignments_of(output), codes)  # type: ignore[arg-type]
    found = usage.assignments_of((torch.tensor(0.5), vectors))
    assert found is not None and found.shape == vectors.shape
    assert usage.assignments_of((torch.tensor(3), torch.zeros(4, dtype=torch.bool), torch.zeros(5))) is None
    assert usage.assignments_of("text") is None


@pytest.mark.parametrize(
    ("numbers", "mask"),
    [
        (torch.nn.functional.one_hot(torch.arange(6) % 3, 4), True),
        (torch.tensor([[0, 1, 0], [0, 0, 0]]), True),  # one token was dropped
        (torch.zeros(5, 4, dtype=torch.long), False),
        (torch.randint(50, (20, 8), generator=torch.Generator().manual_seed(0)), False),
        (torch.tensor([[0, 1], [1, 0]]), False),  # the two experts of each token
        (torch.arange(5), False),
        (torch.zeros(0, 4, dtype=torch.long), False),
        (torch.zeros(3, 4, dtype=torch.bool), True),
    ],
)
def test_one_hot_rows_of_whole_numbers_are_told_from_numbers(numbers: Tensor, mask: bool) -> None:
    assert usage.is_mask(numbers) is mask


def test_a_mask_of_several_experts_counts_each_alike() -> None:
    rows = usage.rows_of_mask(torch.tensor([[[1, 1, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 1]]]))
    values = read(rows, parts=1)
    assert values["samples"] == 3 and values["top_share"] == pytest.approx(0.5)


def test_wide_rows_are_bounded() -> None:
    assert usage.kept_rows(torch.zeros(10_000, 8)).shape == (2048, 8)
    assert usage.kept_rows(torch.zeros(100, 2**17)).shape == (64, 2**17)


@pytest.mark.parametrize(
    ("rewards", "start", "learned"),
    [
        ([0.5, 0.8, 0.9, 0.92, 0.93, 0.93], 0.25, True),
        ([1.0, 1.0, 1.0], 1.0, False),  # nothing was gained
        ([0.5, 0.9, 0.9, 0.3, 0.28, 0.3], 0.25, False),  # it is lost again
        ([-20.0, -19.5, -20.5, -20.0, -19.8, -20.2], math.nan, False),
        ([-20.0, -19.0, -20.0, -10.0, -5.0, -5.0, -5.0], math.nan, True),
        ([0.5, 0.9], 0.25, None),
        ([0.5] * 5, math.nan, None),
    ],
)
def test_learning_is_a_clear_rise_of_the_reward(rewards: list[float], start: float, learned: bool | None) -> None:
    assert usage.has_learned(rewards, start, 16) is learned


def test_noise_is_seldom_taken_for_learning() -> None:
    draw = numpy.random.default_rng(0)
    found = 0
    for _ in range(300):
        start, rewards = draw.normal(), (draw.normal(size=20) / 4).tolist()  # means over 16 batches
        found += usage.has_learned(rewards, float(start), 16) is True
    assert found <= 15, "5 %"


def test_a_single_entry_has_no_use_to_speak_of() -> None:
    assert usage.expected_used(100, 1) == 1.0 and usage.expected_perplexity(100, 1) == 1.0
    sums = {"votes": torch.tensor([40.0]), "effective": torch.tensor(40.0)}
    values, _ = usage.read_usage(usage.measured_usage(sums, 0.05).tolist())
    assert values["usage"] == values["capacity"] == values["balance"] == 0.0
    assert math.isnan(usage.information_share(values))
    broken, _ = usage.read_usage(usage.measured_usage({**sums, "effective": torch.tensor(math.nan)}, 0.05).tolist())
    assert math.isnan(broken["usage"])


def test_rewards_that_fall_are_told_from_noise_and_from_a_dip_after_a_rise() -> None:
    alarms, found = 0, 0
    for seed in range(100):
        noise = torch.randn(40, generator=torch.Generator().manual_seed(seed)).tolist()
        flat, falls = ([0.25 + 0.02 * e - slope * i for i, e in enumerate(noise)] for slope in (0.0, 0.006))
        alarms += any(usage.has_unlearned(flat[:n], math.nan, 16) for n in range(1, 41))
        found += usage.has_unlearned(falls, math.nan, 16)
    assert alarms <= 5 and found == 100
    assert not usage.has_unlearned([0.2, 0.3, 0.6, 0.9, 0.9, 0.3, 0.2, 0.15, 0.15], math.nan, 16)
