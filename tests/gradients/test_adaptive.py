from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks import AdaGC, AutoClip, ZClip
from tests import oracles

CPU = torch.device("cpu")
BAD = (float("nan"), float("inf"))


def spiky(n: int = 120, seed: int = 0) -> list[float]:
    """Norms as of a training: noise about a slow decay, spikes, and the overflows of a loss scale at the start."""
    draw = np.random.default_rng(seed)
    norms = (2.0 * np.exp(-np.arange(n) / 80) * draw.lognormal(0, 0.3, n)).astype(np.float32)
    norms[[30, 31, 70]] *= 50
    norms[[0, 1, 50]] = [np.inf, np.nan, np.nan]
    return [float(x) for x in norms]


def run(rule: Any, norms: list[float]) -> list[float]:
    state, out = rule.init(None, CPU), []
    for n in norms:
        coefficient, state = rule.update(torch.tensor(n), state)
        out.append(float(coefficient))
    return out


@pytest.mark.parametrize(("percentile", "window"), [(10.0, 1000), (90.0, 20), (50.0, 7)])
def test_autoclip_is_the_paper(percentile: float, window: int) -> None:
    expected = oracles.autoclip(spiky(), percentile, window)
    assert run(AutoClip(percentile, window), spiky()) == pytest.approx(expected, rel=1e-4)
    assert min(expected) < 0.1


@pytest.mark.parametrize("arguments", [{}, {"alpha": 0.9, "z": 1.5, "warmup": 5}, {"max_norm": 0.8}], ids=str)
def test_zclip_is_the_paper(arguments: dict[str, Any]) -> None:
    rule = ZClip(**arguments)
    expected = oracles.zclip(spiky(), rule.alpha, rule.z, rule.warmup, rule.max_norm)
    assert run(rule, spiky()) == pytest.approx(expected, rel=1e-3)
    assert min(expected) < 0.1


@pytest.mark.parametrize(
    "arguments", [{"warmup": 10}, {"beta": 0.8, "relative": 1.5, "absolute": 0.3, "warmup": 30}], ids=str
)
def test_adagc_is_the_paper(arguments: dict[str, Any]) -> None:
    rule = AdaGC(**arguments)
    rows = [list(row) for row in zip(spiky(seed=1), spiky(seed=2), spiky(seed=3), strict=True)]
    expected = oracles.adagc(rows, rule.beta, rule.relative, rule.absolute, rule.warmup)
    state = rule.init(3, CPU)
    for row, coefficients in zip(rows, expected, strict=True):
        got, state = rule.update(torch.tensor(row), state)
        assert got.tolist() == pytest.approx(coefficients, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([AutoClip(50.0, 8), ZClip(warmup=3), AdaGC(warmup=3)]),
    st.lists(st.one_of(st.floats(0.1, 10), st.sampled_from([*BAD, 0.0])), min_size=1, max_size=30),
)
def test_what_is_not_finite_never_enters_a_state(rule: Any, norms: list[float]) -> None:
    with_bad, without = rule.init(1, CPU), rule.init(1, CPU)
    for n in norms:
        coefficient, with_bad = rule.update(torch.tensor([n]), with_bad)
        assert 0 < float(coefficient) <= 1
        if np.isfinite(n) and n > 0:
            _, without = rule.update(torch.tensor([n]), without)
    for name, value in without.items():
        assert torch.equal(torch.as_tensor(with_bad[name]).nan_to_num(), torch.as_tensor(value).nan_to_num()), name


@pytest.mark.parametrize("rule", [AutoClip(50.0, 8), ZClip(warmup=5), AdaGC(warmup=5)])
def test_a_state_through_a_file_goes_on_bit_for_bit(rule: Any, tmp_path: Any) -> None:
    norms = [n for n in spiky() if np.isfinite(n)]
    whole = run(rule, norms)
    state, out = rule.init(None, CPU), []
    for i, n in enumerate(norms):
        if i % 7 == 0:
            torch.save(state, tmp_path / "state")
            state = torch.load(tmp_path / "state", weights_only=True)
        coefficient, state = rule.update(torch.tensor(n), state)
        out.append(float(coefficient))
    assert out == whole


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: AutoClip(percentile=0), r"AutoClip\(percentile=0\): percentile must be > 0 and <= 100"),
        (lambda: AutoClip(percentile=101.0), "percentile must be > 0 and <= 100"),
        (lambda: AutoClip(window=0), "window must be a whole number >= 1"),
        (lambda: ZClip(alpha=1.0), r"alpha must be > 0 and < 1"),
        (lambda: ZClip(z=float("nan")), "z must be > 0 and finite"),
        (lambda: ZClip(warmup=1), "warmup must be a whole number >= 2"),
        (lambda: ZClip(max_norm=-1.0), "max_norm must be > 0"),
        (lambda: AdaGC(beta=0.0), "beta must be > 0 and < 1"),
        (lambda: AdaGC(relative=0.0), "relative must be > 0"),
        (lambda: AdaGC(absolute=float("inf")), "absolute must be > 0 and finite"),
        (lambda: AdaGC(warmup=0), "warmup must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("make", [lambda: AutoClip(window=1.5), lambda: ZClip(z="2"), lambda: AdaGC(warmup=True)])
def test_wrong_types_are_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="must be"):
        make()
