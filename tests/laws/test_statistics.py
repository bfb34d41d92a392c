"""What is not finite never enters a statistic: a stream with NaN and inf leaves the state of the stream without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lightning_tricks import AdaGC, AutoClip, ClipNorm, GradientClip, Plateau, ZClip
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.gradients.clip_statistics import ClipStatistics
from lightning_tricks.gradients.noise_scale import NoiseScale
from lightning_tricks.numerics.running import Ema, Percentile, Welford
from tests.laws.strategies import flat, law, same
from tests.problems import Classifier, digits, sgd, trainer

CPU = torch.device("cpu")
BAD = (math.nan, math.inf, -math.inf, 0.0)  # a norm of 0: there was no gradient
RULES = [AutoClip(30.0, window=5), ZClip(0.8, 1.5, warmup=3), AdaGC(0.8, warmup=3)]
good = st.floats(2.0**-10, 2.0**10, width=32)
streams = st.lists(st.one_of(good, st.sampled_from(BAD)), max_size=25)


def usable(stream: Sequence[float]) -> list[float]:
    return [x for x in stream if math.isfinite(x) and x > 0]


def through(rule: Any, stream: Sequence[float]) -> Any:
    state = rule.init(1, CPU)
    for value in stream:
        after = rule.update(torch.tensor([value]), state)
        state = after[1] if isinstance(after, tuple) else after
    return state


@pytest.mark.parametrize("rule", [Welford(), Percentile(4), *RULES], ids=lambda rule: type(rule).__name__)
@given(stream=streams)
@law(60)
def test_a_stream_is_what_is_usable_of_it(rule: Any, stream: list[float]) -> None:
    assert same(through(rule, stream), through(rule, usable(stream)))


@pytest.mark.parametrize("rule", RULES[:2], ids=lambda rule: type(rule).__name__)  # AdaGC asks for the total norm
@given(stream=streams, other=st.lists(good, min_size=25, max_size=25))
@law(30)
def test_parts_do_not_see_each_others_values(rule: Any, stream: list[float], other: list[float]) -> None:
    state = rule.init(2, CPU)
    for pair in zip(stream, other, strict=False):
        _, state = rule.update(torch.tensor(pair), state)
    alone = through(rule, usable(stream))
    assert same({k: v[0] if isinstance(v, Tensor) else v for k, v in state.items()},
                 {k: v[0] if isinstance(v, Tensor) else v for k, v in alone.items()})  # fmt: skip


@given(st.lists(st.one_of(st.floats(-100, 100, width=32), st.sampled_from(BAD[:3])), max_size=20), st.floats(0, 0.99))
@law(60)
def test_a_moving_average_leaves_out_what_is_not_finite_and_nothing_else(stream: list[float], decay: float) -> None:
    finite = [x for x in stream if math.isfinite(x)]
    assert same(through(Ema(decay), stream), through(Ema(decay), finite))
    top = bottom = 0.0
    for x in finite:
        top, bottom = decay * top + (1 - decay) * x, decay * bottom + (1 - decay)
    if finite:
        mean = float(Ema(decay).mean(through(Ema(decay), finite)))
        assert mean == pytest.approx(top / bottom, rel=1e-3, abs=1e-3)


@given(st.lists(st.tuples(good, good), max_size=15), st.integers(0, 15), st.sampled_from(BAD[:3]))
@law(30)
def test_the_noise_scale_forgets_an_estimate_that_is_not_finite(pairs: list[Any], at: int, bad: float) -> None:
    def of(rows: list[Any]) -> Any:
        state = NoiseScale().init(CPU)
        for signal, noise in rows:
            state = NoiseScale().update(torch.tensor(signal), torch.tensor(noise), state)
        return state

    assert same(of(pairs), of([*pairs[:at], (bad, bad), *pairs[at:]]))


@given(streams, st.integers(1, 6))
@law(40)
def test_statistics_of_a_clip_are_those_of_the_usable_norms(stream: list[float], chunk: int) -> None:
    """However many updates are taken in at once; numpy's percentile is the oracle."""
    rule = ClipStatistics(window=64)
    state = rule.init(1, CPU)
    for i in range(0, len(stream), chunk):
        norms = torch.tensor(stream[i : i + chunk]).reshape(-1, 1)
        state = rule.update(norms, ClipNorm(1.0).update(norms, {})[0], state)
    known = usable(stream)
    assert float(state["updates"]) == len(known)
    assert float(state["clipped"]) == sum(numpy.float32(x) + numpy.float32(1e-6) > 1 for x in known)
    if known:
        percentile = float(rule.percentiles(90.0, state))
        assert percentile == pytest.approx(float(numpy.percentile(known, 90)), rel=1e-5)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=30))
@law(60)
def test_a_check_without_a_value_says_nothing(stream: list[float]) -> None:
    alarm = Alarm(below=0.3, of_peak=0.9, gain=0.2, patience=2)

    def of(values: list[tuple[int, float]]) -> Any:
        state = alarm.init()
        for step, value in values:
            _, state = alarm.update(value, step=step, ready=True, state=state)
        return state

    steps = list(enumerate(stream))
    assert of(steps) == of([(step, x) for step, x in steps if not math.isnan(x)])


@given(st.lists(st.one_of(st.floats(0.1, 10), st.just(math.nan)), max_size=30), st.sampled_from(["min", "max"]))
@law(60)
def test_a_metric_that_is_nan_is_no_improvement_and_never_the_best(stream: list[float], mode: str) -> None:
    rule = Plateau("loss", mode=mode, patience=2, threshold=0.0)
    state = rule.init()
    for value in stream:
        state = rule.update(value, state)
    finite = [x for x in stream if not math.isnan(x)]
    best = min if mode == "min" else max
    assert state["best"] == (best(finite) if finite else None)


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(
    bad=st.sets(st.integers(0, 11), max_size=5),
    value=st.sampled_from(BAD[:2]),
    fused=st.booleans(),
    momentum=st.sampled_from([0.0, 0.9]),
)
@law(12)
def test_a_run_with_updates_that_are_skipped_is_the_run_on_the_other_batches(
    rule: Any, bad: set[int], value: float, fused: bool, momentum: float
) -> None:
    def outcome(batches: list[int], spoilt: set[int]) -> tuple[Tensor, Any]:
        clip = GradientClip(rule)
        module = Classifier(
            lambda p: sgd(p, fused=fused, momentum=momentum),
            spoil=lambda i, loss: loss * value if i in spoilt else loss,
        )
        rows = [4 * b + j for b in batches for j in range(4)]
        trainer([clip]).fit(module, DataLoader(Subset(digits(48), rows), batch_size=4))
        clock = clip.run.clock
        assert (clock.attempted(0), clock.applied_on_host(0)) == (len(batches), len(batches) - len(spoilt))
        return flat(module.parameters()), clip._trick_state().get("0", {}).get("rule_state")

    whole = outcome(list(range(12)), bad)
    without = outcome([b for b in range(12) if b not in bad], set())
    assert torch.equal(whole[0], without[0])
    assert same(whole[1], without[1])
