from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from lightning_tricks import CosineRestarts, Decay, LRSchedule, MultiStep, Noam, OneCycle, Plateau
from lightning_tricks.decays import Exponential, Function, Join, Linear, Phase, Polynomial, Step
from lightning_tricks.schedules.curves import Span
from lightning_tricks.schedules.phases import DECAYS
from lightning_tricks.schedules.plan import curve_of
from tests.schedules.problems import closed_form

T = 40


def theirs(make: Callable[[torch.optim.Optimizer], Any], steps: int = T) -> list[float]:
    """The rates of a torch scheduler from a base rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, out = make(optimizer), []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


def ours(decay: Any, total: int = T, **arguments: Any) -> list[float]:
    own = LRSchedule(decay).decay.owns_warmup
    return LRSchedule(decay, **({} if own else {"warmup": 0}), **arguments).values(total)


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_values_are_the_closed_form(decay: str, warmup: int) -> None:
    values = LRSchedule(decay, warmup=warmup).values(20)
    assert values == pytest.approx([closed_form(k, 20, warmup, decay) for k in range(20)], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "decay", "extra", "arguments"),
    [
        ("cosine", "cosine", {}, {}),
        ("linear", "linear", {}, {}),
        ("constant_with_warmup", "constant", {}, {}),
        ("inverse_sqrt", "inverse_sqrt", {}, {}),
        ("polynomial", Polynomial(0.9), {"power": 0.9, "lr_end": 1e-3}, {"final": 1e-3}),
        ("cosine_with_restarts", CosineRestarts(7), {"num_cycles": 5}, {}),
        ("cosine_with_min_lr", "cosine", {"min_lr_rate": 0.1}, {"final": 0.1}),
    ],
)
def test_values_are_transformers_one_update_later_in_the_warmup(
    name: str, decay: Any, extra: dict[str, Any], arguments: dict[str, Any]
) -> None:
    from transformers import get_scheduler

    def make(optimizer: torch.optim.Optimizer) -> Any:
        return get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=T, scheduler_specific_kwargs=extra)

    expected = theirs(make, T + 1)
    values = LRSchedule(decay, warmup=5, **arguments).values(T)
    # theirs wastes its first update at rate 0; our warm-up is theirs one index later, the decay is the same
    assert values[:5] == pytest.approx(expected[1:6], rel=1e-12)
    assert values[5:] == pytest.approx(expected[5:T], rel=1e-12)


@pytest.mark.parametrize(("kind", "decay"), [("linear", "linear"), ("cosine", "cosine"), ("1-sqrt", "one_minus_sqrt")])
def test_warmup_stable_decay_is_transformers(kind: str, decay: str) -> None:
    from transformers import get_wsd_schedule

    expected = theirs(
        lambda o: get_wsd_schedule(o, 5, 10, num_stable_steps=25, decay_type=kind, min_lr_ratio=0.1), T + 1
    )
    values = LRSchedule(decay, warmup=5, warmup_start=0.1, hold=25, final=0.1).values(T)
    assert values[:5] == pytest.approx(expected[1:6], rel=1e-12)
    assert values[5:] == pytest.approx(expected[5:T], rel=1e-12)


@pytest.mark.parametrize(
    ("decay", "make", "arguments"),
    [
        ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, T, eta_min=0.1), {"final": 0.1}),
        ("linear", lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, T), {"final": 0.2}),
        (Polynomial(2.5), lambda o: lr_scheduler.PolynomialLR(o, T, power=2.5), {}),
        (Exponential(0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9), {}),
        (Step(7, gamma=0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3), {}),
        (MultiStep([5, 20, 21], gamma=0.3), lambda o: lr_scheduler.MultiStepLR(o, [5, 20, 21], 0.3), {}),
        (CosineRestarts(6), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6, eta_min=0.1), {"final": 0.1}),
        (CosineRestarts(3, t_mul=2), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2), {}),
        (OneCycle(), lambda o: lr_scheduler.OneCycleLR(o, 1.0, T + 1), {"total": T + 1}),
        (
            OneCycle(0.4, 10.0, 100.0, anneal="linear"),
            lambda o: lr_scheduler.OneCycleLR(
                o, 1.0, T + 1, pct_start=0.4, div_factor=10, final_div_factor=100, anneal_strategy="linear"
            ),
            {"total": T + 1},
        ),
        (Function(lambda k, n: 1 / (k + 1)), lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (k + 1)), {}),
        ("constant", lambda o: lr_scheduler.ConstantLR(o, 1.0), {}),
    ],
    ids=lambda value: str(value) if isinstance(value, (str, Decay)) else "",
)
def test_values_are_torchs(decay: Any, make: Any, arguments: dict[str, Any]) -> None:
    total = arguments.pop("total", T) if "total" in arguments else T
    assert ours(decay, total, **arguments)[:T] == pytest.approx(theirs(make), rel=1e-12, abs=1e-15)


def tensorflow(name: str, k: int) -> float:
    """The formulas of TensorFlow's documentation, over 40 updates."""
    x = k / T
    if name == "linear_cosine":
        return (1 - x) * 0.5 * (1 + math.cos(math.pi * 2 * 0.5 * x)) + 0.001
    if name == "cosine_restarts":  # first 5, t_mul 2, m_mul 0.5, alpha 0.1
        start, length, height = 0, 5, 1.0
        while k >= start + length:
            start, length, height = start + length, 2 * length, 0.5 * height
        return 0.9 * height * 0.5 * (1 + math.cos(math.pi * (k - start) / length)) + 0.1
    if name == "piecewise":
        return 1.0 if k <= 10 else 0.5 if k <= 20 else 0.1
    return {
        "exponential": 0.5 ** (k / 10),
        "staircase": 0.5 ** (k // 10),
        "natural": math.exp(-0.3 * k / 10),
        "inverse": 1 / (1 + 0.3 * (k // 10)),
        "polynomial": (1 - 0.1) * (1 - x) ** 3 + 0.1,
    }[name]


@pytest.mark.parametrize("name", ["linear_cosine", "cosine_restarts", "piecewise", "exponential", "staircase",
                                  "natural", "inverse", "polynomial"])  # fmt: skip
def test_values_are_tensorflows_formulas(name: str) -> None:
    from lightning_tricks import InverseTime, LinearCosine, NaturalExponential
    from lightning_tricks.decays import Piecewise

    decay: tuple[Decay, float] = {
        "linear_cosine": (LinearCosine(), 0.0),
        "cosine_restarts": (CosineRestarts(5, t_mul=2, m_mul=0.5), 0.1),
        "piecewise": (Piecewise((10, 20), (1.0, 0.5, 0.1)), 0.0),
        "exponential": (Exponential(0.5, every=10), 0.0),
        "staircase": (Exponential(0.5, every=10, staircase=True), 0.0),
        "natural": (NaturalExponential(0.3, every=10), 0.0),
        "inverse": (InverseTime(0.3, every=10, staircase=True), 0.0),
        "polynomial": (Polynomial(3.0), 0.1),
    }[name]
    expected = [tensorflow(name, k) for k in range(T)]
    assert ours(decay[0], final=decay[1]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d_model", [512, None])
def test_noam_is_the_papers_formula(d_model: int | None) -> None:
    scale = 512**-0.5 if d_model else 10**0.5
    expected = [scale * min(k**-0.5, k * 10**-1.5) for k in range(1, T + 1)]
    assert ours(Noam(10, d_model)) == pytest.approx(expected, rel=1e-12)
    if d_model is None:
        assert max(ours(Noam(10))) == pytest.approx(1.0, rel=1e-12)


def test_deeplabs_poly_after_a_warmup() -> None:
    expected = [(k + 1) / 10 for k in range(10)] + [(1 - (k - 10) / 30) ** 0.9 for k in range(10, 40)]
    assert LRSchedule(Polynomial(0.9), warmup=10).values(T) == pytest.approx(expected, rel=1e-12)


def test_milestones_are_points_of_the_run_and_stairs_begin_after_the_warmup() -> None:
    multi = LRSchedule(MultiStep([20, "75%"], gamma=0.5), warmup=10).values(T)
    assert multi[10:] == [1.0] * 10 + [0.5] * 10 + [0.25] * 10
    stairs = LRSchedule(Step(20, gamma=0.5), warmup=10).values(T)
    assert stairs[10:] == [1.0] * 20 + [0.5] * 10


def test_every_name_of_the_table_can_be_had_and_ends_below_its_peak() -> None:
    names = {"constant", "linear", "cosine", "cosine_restarts", "polynomial", "exponential", "natural_exponential",
             "inverse_time", "inverse_sqrt", "step", "multistep", "piecewise", "linear_cosine", "one_minus_sqrt",
             "one_cycle", "noam", "plateau"}  # fmt: skip
    assert set(DECAYS) == names
    for name in names - {"plateau"}:
        values = LRSchedule(name).values(100)
        assert len(values) == 100
        assert all(math.isfinite(v) and v >= 0 for v in values)
        assert max(values) == pytest.approx(1.0, abs=0.002), name
        assert name == "constant" or values[-1] < 0.5, name
    with pytest.raises(ValueError, match="the metric 'val_loss' decides while training"):
        LRSchedule("plateau").values(100)


def test_no_curve_starts_again_or_fails_past_its_end() -> None:
    for name in set(DECAYS) - {"plateau"}:
        curve = curve_of(LRSchedule(name).spec, DECAYS[name], 100, None)
        assert curve.value(100) == curve.value(101) == curve.value(10**6), name
        assert curve.value(100) <= curve.value(99) + 1e-12, name


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.1 + 0.9 * x for x in (0.25, 0.5, 0.75, 1)]),
        ("cosine", [0.1 + 0.9 * (1 - math.cos(math.pi * x)) / 2 for x in (0.25, 0.5, 0.75, 1)]),
        ("exponential", [0.1 ** (1 - x) for x in (0.25, 0.5, 0.75, 1)]),
        ("constant", [0.1] * 4),
    ],
)
def test_warmup_shapes_are_the_closed_form(shape: Any, expected: list[float]) -> None:
    schedule = LRSchedule("linear", warmup=4, warmup_shape=shape, warmup_start=0.1, hold=2)
    assert schedule.values(10)[:6] == pytest.approx([*expected, 1.0, 1.0], rel=1e-12)


def test_phases_join_and_a_function_is_one() -> None:
    join = Join(
        [
            Phase("linear", 10, start=0.0, end=1.0),
            Phase("constant", "50%"),
            Phase(lambda k, n: 0.5 + k / n, 4),
            Phase("cosine", end=0.2),
        ]
    )
    expected = [k / 10 for k in range(10)] + [1.0] * 20 + [0.5 + k / 4 for k in range(4)]
    expected += [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]
    assert LRSchedule(join).values(T) == pytest.approx(expected, rel=1e-12)
    assert LRSchedule(lambda k, n: 1 - k / n, warmup=0).values(T) == pytest.approx(ours("linear"), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Polynomial(0.0), r"Polynomial\(power=0.0\): power must be > 0"),
        (lambda: Exponential(1.5), "gamma must be > 0 and <= 1"),
        (lambda: Exponential(0.5, every=0), r"Exponential\(every=0\): every must be > 0"),
        (lambda: Step("0%"), "every must be > 0"),
        (lambda: MultiStep([]), "milestones must be a list of at least one point"),
        (lambda: MultiStep([30, 20]), "milestones must rise"),
        (lambda: DECAYS["piecewise"].__class__((10,), (1.0,)), "values must be one more than the 1 boundaries"),
        (lambda: CosineRestarts(5, t_mul=0), "t_mul must be a whole number >= 1"),
        (lambda: OneCycle(pct_start=1.0), "pct_start must be > 0 and < 1"),
        (lambda: OneCycle(anneal="log"), "anneal must be one of cos, linear"),
        (lambda: Noam(0), "warmup must be > 0"),
        (lambda: Join([]), "phases must be at least one"),
        (lambda: Join([Phase("linear"), Phase("linear")]), r"only one without a length \(not 2\)"),
        (lambda: Phase("linea", 3), "Did you mean 'linear'"),
        (lambda: Plateau("x", mode="least"), "mode must be one of min, max"),
        (lambda: Plateau("x", factor=1.0), "factor must be > 0 and < 1"),
        (lambda: Plateau("x", patience=-1), "patience must be a whole number >= 0"),
        (lambda: LRSchedule(Join([Phase("linear", 50)])).values(T), "the phases take 50 updates, the run has 40"),
        (
            lambda: curve_of(LRSchedule(Join([Phase("linear")])).spec, Join([Phase("linear")]), None, None),
            "needs the length of the run",
        ),
        (lambda: Join([Phase("linear")]).resolve(Span()), "Join: the length of the run is not known"),
        (lambda: LRSchedule(Step("2ep")).values(T), "the length of an epoch is not known"),
        (lambda: LRSchedule(Linear(), warmup=30, hold=20).values(T), "are longer than the run"),
    ],
)
def test_bad_curves_are_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
