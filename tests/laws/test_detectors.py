"""Detectors: measures that know no unit of length, no alarm from noise, and one in time from a collapse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_tricks
from lightning_tricks import (
    DeadUnits,
    ModeCollapse,
    PosteriorCollapse,
    PredictionCollapse,
    RepresentationCollapse,
)
from lightning_tricks.collapse import sums
from lightning_tricks.detection.alarm import Alarm
from tests.laws.strategies import law, seeds
from tests.problems import Classifier, sgd, trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")

# measure -> what leaves it as it is: a scale, a shift of all rows, a rotation
INVARIANT = {
    "SphereVariance": {"scale", "rotation"},
    "MeanCosine": None,
    "EmbeddingStd": {"scale"},
    "EffectiveRank": {"scale", "shift", "rotation"},
    "ParticipationRatio": {"scale", "shift", "rotation"},
    "DeadDimensions": {"scale", "shift"},
    "Uniformity": {"scale", "rotation"},
}
MEASURES = sorted(INVARIANT)
INVARIANT["MeanCosine"] = {"scale", "rotation"}


def features(seed: int, n: int = 40, d: int = 6) -> Tensor:
    """Rows with a mean, and a variance of its own in every direction."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(d, generator=generator, dtype=torch.float64) + 0.05
    middle = torch.randn(d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) * spread + middle


def changed(rows: Tensor, how: str, seed: int, factor: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if how == "scale":
        return rows * factor
    if how == "shift":
        return rows + factor * torch.randn(rows.shape[1], generator=generator, dtype=torch.float64)
    square = torch.randn(rows.shape[1], rows.shape[1], generator=generator, dtype=torch.float64)
    return rows @ torch.linalg.qr(square)[0]


def measured(name: str, rows: Tensor) -> float:
    cls = getattr(lightning_tricks.metrics, name)
    metric = cls() if name == "Uniformity" else cls(rows.shape[1])
    for part in rows.split(7):  # batches of any size
        metric.update(part)
    return float(metric.compute())


@given(st.sampled_from(MEASURES), st.sampled_from(["scale", "shift", "rotation"]), seeds, st.floats(0.01, 20))
@law(150)
def test_measures_of_spread_know_no_unit(name: str, how: str, seed: int, factor: float) -> None:
    rows = features(seed)
    if how in (INVARIANT[name] or set()):
        assert measured(name, changed(rows, how, seed + 1, factor)) == pytest.approx(measured(name, rows), rel=1e-6)


@given(seeds, st.floats(1e-3, 1e3), st.floats(0, 10))
@law(60)
def test_what_a_detector_reads_knows_no_unit_either(seed: int, scale: float, shift: float) -> None:
    def read(rows: Tensor) -> dict[str, float]:
        gathered: dict[str, Tensor] = {}
        for part in rows.float().split(13):
            sums.add_features(gathered, part, rows[0].float(), torch.full((len(part),), -1))
        return sums.read_features(sums.measured_features(gathered).tolist())[0]

    rows = features(seed)
    one, scaled, shifted = read(rows), read(rows * scale), read(rows + shift)
    sizes = [values.pop("_size") for values in (one, scaled, shifted)]  # (it alone has a unit)
    assert sizes == pytest.approx([sizes[0], scale * sizes[0], sizes[0]], rel=1e-3)
    assert sizes[0] == pytest.approx(float((rows - rows.mean(0)).square().sum(1).mean().sqrt()), rel=1e-3)
    assert scaled == pytest.approx(one, rel=1e-3)
    assert shifted["effective_rank"] == pytest.approx(one["effective_rank"], rel=1e-3)
    sigma = torch.linalg.svdvals(rows - rows.mean(0))  # the definition, by another way than eigenvalues
    share = sigma / sigma.sum()
    assert one["effective_rank"] == pytest.approx(float((-share * share.log()).sum().exp()), rel=1e-3)
    unit = rows / rows.norm(dim=1, keepdim=True)
    assert one["sphere_variance"] == pytest.approx(float(1 - unit.mean(0).square().sum()), rel=1e-3)


# -- the alarm ------------------------------------------------------------------------------------------------------


def alarms_in(alarm: Alarm, values: list[float]) -> list[int]:
    state, begun = alarm.init(), []
    for step, value in enumerate(values):
        started, state = alarm.update(value, step=step, ready=True, state=state)
        if started:
            begun.append(step)
    return begun


@pytest.mark.parametrize("bad", [0.1, 0.3])
@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("trend", [{}, {"gain": 0.2}, {"growth": 1.5}])
def test_false_alarms_from_noise_are_as_rare_as_patience_says(bad: float, patience: int, trend: Any) -> None:
    """A check is bad with probability p; ``patience`` of them in a row have p^patience, at most, at each check."""
    checks = 20_000
    values = torch.rand(checks, generator=torch.Generator().manual_seed(patience), dtype=torch.float64).tolist()
    begun = alarms_in(Alarm(below=bad, patience=patience, recovery=1.0, **trend), values)
    assert len(begun) <= binom.ppf(1 - 1e-6, checks, bad**patience)
    if not trend:  # runs of at least ``patience`` bad checks: one alarm each
        runs = checks * bad**patience * (1 - bad)
        assert len(begun) == pytest.approx(runs, abs=5 * math.sqrt(runs))


@given(st.lists(st.floats(0.4, 1.0), min_size=1, max_size=20), st.integers(1, 5), st.floats(0, 0.09), st.integers(1, 5))
@law(80)
def test_a_collapse_is_an_alarm_after_as_many_checks_as_patience_says(
    healthy: list[float], patience: int, value: float, longer: int
) -> None:
    after = [value] * (patience + longer)
    for alarm in (Alarm(below=0.1, growth=1.5, patience=patience), Alarm(of_peak=0.25, gain=0.05, patience=patience)):
        limit = 0.1 if alarm.below else 0.25 * max(healthy)
        if value < limit:
            assert alarms_in(alarm, [*healthy, *after]) == [len(healthy) + patience - 1]
    assert alarms_in(Alarm(below=0.1, patience=patience), healthy) == []


# -- fits ------------------------------------------------------------------------------------------------------------


class Breaks(nn.Module):
    """Lets everything through until it breaks; then all rows are one."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at, self.batches = at, -1

    def forward(self, x: Tensor) -> Tensor:
        self.batches += 1
        return x * 0 + 1e-3 * x[:1].mean() - 1.0 if self.batches >= self.at else x


class Noise(Classifier):
    """Labels that follow from inputs made of noise, by a network that knows it from the start and hardly learns."""

    def __init__(self, at: float, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(lambda p: sgd(p, lr=1e-9), net=nn.Sequential(nn.Linear(16, 16), nn.ReLU()))
        with torch.no_grad():
            self.net[0].weight.copy_(4 * torch.eye(16))  # type: ignore[index,union-attr]
        self.echo = Breaks(at)  # type: ignore[assignment]


def watch(detector: Any, batches: int, at: float, seed: int) -> Any:
    x = torch.randn(batches * 128, 16, generator=torch.Generator().manual_seed(seed))
    module = Noise(at, seed)
    trainer([detector]).fit(module, DataLoader(TensorDataset(x, x.argmax(1)), batch_size=128))
    return detector


DETECTORS = {
    "RepresentationCollapse": lambda **more: RepresentationCollapse("echo", **more),
    "PredictionCollapse": lambda **more: PredictionCollapse("net", **more),
    "ModeCollapse": lambda **more: ModeCollapse("echo", **more),
    "DeadUnits": lambda **more: DeadUnits(["net.1"], **more),
    "PosteriorCollapse": lambda **more: PosteriorCollapse("echo", "echo", **more),
}


@pytest.mark.parametrize("name", sorted(DETECTORS))
@given(seeds)
@law(3)
def test_noise_that_stays_what_it_is_makes_no_alarm(name: str, seed: int) -> None:
    found: list[Any] = []
    detector = watch(DETECTORS[name](every_n_steps=1, patience=1, grace=0, action=found.append), 60, math.inf, seed)
    assert len(detector.history) >= 50
    assert not found and not detector.verdict.alarmed


@pytest.mark.parametrize("name", sorted(DETECTORS))
@given(at=st.integers(6, 20), every=st.integers(4, 6), patience=st.integers(1, 3), seed=seeds)
@law(4)
def test_a_collapse_is_told_within_the_checks_that_are_promised(
    name: str, at: int, every: int, patience: int, seed: int
) -> None:
    """A check looks at 512 samples, here 4 batches: the first one that sees nothing else is a bad one."""
    detector = watch(DETECTORS[name](every_n_steps=every, patience=patience, grace=0, action="log"), 60, at, seed)
    verdict = detector.verdict
    assert verdict.alarmed
    steps = [step for step, _ in detector.history]
    after = [step for step in steps if step - 3 >= at]  # all four of its batches
    before = [step for step in steps if step < at]
    assert verdict.step <= after[patience - 1], "as soon as promised"
    assert verdict.since_step is not None and verdict.since_step > max(before, default=-1), "and not before"
