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

from lightning_tricks.collapse import assignments, usage, usage_kinds

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
    counts = assignments.counted_entries(numbers, entries)
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
    assert usage_kinds.information_share(read(logits)) == pytest.approx(
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
    sums = {"votes": assignments.counted_entries(numbers, 8192), "effective": torch.tensor(512.0)}
    values, shares = usage.read_usage(usage.measured_usage(sums, 0.01).tolist())
    assert values["unused_share"] > 0.9
    assert values["usage"] > 0.95 and values["balance"] > 0.95 and values["capacity"] > 0.99
    assert len(shares) == usage.SHOWN and "conditional_entropy" not in values


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


def test_a_mask_of_several_experts_counts_each_alike() -> None:
    rows = assignments.rows_of_mask(torch.tensor([[[1, 1, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 1]]]))
    values = read(rows, parts=1)
    assert values["samples"] == 3 and values["top_share"] == pytest.approx(0.5)


def test_a_single_entry_has_no_use_to_speak_of() -> None:
    assert usage.expected_used(100, 1) == 1.0 and usage.expected_perplexity(100, 1) == 1.0
    sums = {"votes": torch.tensor([40.0]), "effective": torch.tensor(40.0)}
    values, _ = usage.read_usage(usage.measured_usage(sums, 0.05).tolist())
    assert values["usage"] == values["capacity"] == values["balance"] == 0.0
    assert math.isnan(usage_kinds.information_share(values))
    broken, _ = usage.read_usage(usage.measured_usage({**sums, "effective": torch.tensor(math.nan)}, 0.05).tolist())
    assert math.isnan(broken["usage"])
