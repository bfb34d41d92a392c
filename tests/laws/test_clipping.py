"""Clipping, through the gradients of parameters: what torch's own functions do in float64, and the laws of a clip."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from lightning_tricks import AGC, AdaGC, AutoClip, ClipNorm, ClipRule, ClipValue, ZClip
from lightning_tricks.gradients.clipper import Clipper
from lightning_tricks.optimizer_step.gradient_writer import GradientWriter
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale
from tests.laws.strategies import NORM_TYPES, flat, gradients, law, numbers, parameters_with, seeds

ROUNDING = {torch.float16: 4e-3, torch.bfloat16: 2e-2, torch.float32: 3e-5, torch.float64: 3e-6}
ADAPTIVE = [AutoClip(30.0, window=7), ZClip(alpha=0.8, z=1.5, warmup=3), AdaGC(beta=0.8, warmup=3, absolute=4.0)]


class Clips:
    """A rule at work on the gradients of parameters, as in a run but without a Trainer."""

    def __init__(self, rule: ClipRule, parameters: list[nn.Parameter], per: str = "model", groups: int = 2) -> None:
        parts = [{"params": parameters[j::groups]} for j in range(groups) if parameters[j::groups]]
        optimizer = torch.optim.SGD(parts, lr=1.0)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        names = {id(p): f"p{i}" for i, p in enumerate(self.parameters)}
        self.view = OptimizerView(0, optimizer, names, LossScale(None))
        self.clipper = Clipper(rule, per, None, self.view)

    def parts(self) -> list[list[nn.Parameter]]:
        """The parameters that share a coefficient."""
        if self.clipper.parts.whole:
            return [self.parameters]
        if self.clipper.parts.each:
            return [[p] for p in self.parameters]
        return [group["params"] for group in self.view.optimizer.param_groups]

    def once(self) -> Tensor:
        """Clip what is there now; return the coefficients."""
        page, writer = Page(self.view, 0, 1, []), GradientWriter()
        kind = self.clipper.rule.norm_kind
        coefficients = self.clipper.clip(page, page.norms(kind), page.total(kind), writer)
        writer.commit(page)
        return coefficients


def slack(parameters: list[nn.Parameter]) -> float:
    return max(ROUNDING[p.dtype] for p in parameters)


def norm(parameters: list[nn.Parameter], norm_type: float) -> float:
    whole = flat([p.grad for p in parameters])
    return float(torch.linalg.vector_norm(whole, norm_type)) if whole.numel() else 0.0


@given(
    gradients(), st.sampled_from(NORM_TYPES), st.sampled_from(["model", "layer", "group"]), st.sampled_from([0.5, 7.0])
)
@law(150)
def test_a_fixed_norm_is_torchs_and_obeys_the_laws_of_a_clip(
    values: Any, norm_type: float, per: str, max_norm: float
) -> None:
    clips = Clips(ClipNorm(max_norm, norm_type), parameters_with(values), per)
    before = [p.grad.clone() for p in clips.parameters if p.grad is not None]
    copies = {id(p): nn.Parameter(p.detach().double()) for p in clips.parameters}
    for p in clips.parameters:
        copies[id(p)].grad = p.grad.double().clone()
    below = [norm(part, norm_type) < 0.999 * max_norm for part in clips.parts()]
    for part in clips.parts():
        # torch's inf norm of an empty tensor raises
        clip_grad_norm_([copies[id(p)] for p in part if p.numel()], max_norm, norm_type)
    clips.once()
    for part, small in zip(clips.parts(), below, strict=True):
        rel = slack(part)
        for p in part:
            torch.testing.assert_close(p.grad.double(), copies[id(p)].grad, rtol=rel, atol=rel * 1e-2 * max_norm)
        assert norm(part, norm_type) <= max_norm * (1 + rel), "at most the threshold"
        if small:
            old = [before[i] for i, p in enumerate(clips.parameters) if any(p is q for q in part)]
            assert all(torch.equal(p.grad, b) for p, b in zip(part, old, strict=True)), "below it, nothing changes"
        now, was = flat([p.grad for p in part]), flat([copies[id(p)].grad for p in part])
        if float(now.norm()) > 1e-2:
            assert float(nn.functional.cosine_similarity(now, was, dim=0)) > 1 - rel, "the direction stays"
    once = [p.grad.clone() for p in clips.parameters]
    clips.once()
    for p, after in zip(clips.parameters, once, strict=True):
        torch.testing.assert_close(p.grad, after, rtol=slack(clips.parameters), atol=1e-6, msg="idempotent")


@given(
    gradients(dtypes=(torch.float32, torch.float64)), st.sampled_from([0.25, 8.0]), st.sampled_from(["model", "layer"])
)
@law(60)
def test_gradients_and_threshold_times_a_factor_give_the_result_times_the_factor(
    values: Any, factor: float, per: str
) -> None:
    one = Clips(ClipNorm(2.0), parameters_with(values), per)
    other = Clips(ClipNorm(2.0 * factor), parameters_with([v * factor for v in values]), per)
    one.once(), other.once()
    for p, q in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(q.grad, p.grad * factor, rtol=2e-5, atol=1e-7)


@given(gradients(), st.sampled_from([0.01, 1.0, 20.0]))
@law(60)
def test_values_are_clipped_as_by_torch(values: Any, limit: float) -> None:
    clips = Clips(ClipValue(limit), parameters_with(values))
    twins = [nn.Parameter(p.detach().clone()) for p in clips.parameters]
    for p, twin in zip(clips.parameters, twins, strict=True):
        twin.grad = p.grad.clone()
    for twin in twins:  # one by one: torch's foreach takes no mixed types
        clip_grad_value_(twin, limit)
    for _ in range(2):  # idempotent
        clips.once()
        for p, twin in zip(clips.parameters, twins, strict=True):
            torch.testing.assert_close(p.grad, twin.grad, rtol=0, atol=0)


def adaptive_oracle(weight: Tensor, gradient: Tensor, factor: float, eps: float) -> Tensor:
    """AGC in float64, unit by unit."""
    weight, gradient = weight.double(), gradient.double()
    rows = zip(weight, gradient, strict=True) if weight.ndim > 1 else [(weight, gradient)]
    out = [g * min(1.0, factor * max(float(w.norm()), eps) / max(float(g.norm()), 1e-6)) for w, g in rows]
    return torch.stack(out).reshape(gradient.shape) if out else gradient


@given(gradients(), st.sampled_from([0.01, 0.5]), seeds)
@law(60)
def test_adaptive_clipping_holds_every_unit_to_its_weights(values: Any, factor: float, seed: int) -> None:
    clips = Clips(AGC(factor, eps=1e-3), parameters_with(values))
    for i, p in enumerate(clips.parameters):
        p.data.copy_(numbers(seed + i, tuple(p.shape), p.dtype, 0.3))
    wanted = [adaptive_oracle(p.detach(), p.grad, factor, 1e-3) for p in clips.parameters]
    for _ in range(2):  # idempotent
        clips.once()
        for p, value in zip(clips.parameters, wanted, strict=True):
            rel = ROUNDING[p.dtype]
            torch.testing.assert_close(p.grad.double(), value, rtol=rel, atol=rel * 1e-2)


EXPONENTS = st.integers(-30, 30)
CHOICES = [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.complex128]


def as_wide(p: nn.Parameter) -> nn.Parameter:
    """A twin in twice the digits, with the same gradient."""
    dtype = torch.complex128 if p.is_complex() else torch.float64
    twin = nn.Parameter(p.detach().to(dtype, copy=True))
    twin.grad = None if p.grad is None else p.grad.to(dtype, copy=True)
    return twin


@pytest.mark.parametrize("place", ["host", "accelerator"])
@pytest.mark.parametrize("per", ["model", "layer", "group"])
@given(
    exponent=EXPONENTS,
    seed=seeds,
    kinds=st.lists(st.sampled_from(CHOICES), min_size=1, max_size=6),
    norm_type=st.sampled_from([1.0, 2.0, math.inf]),
    share=st.sampled_from([1e-3, 0.5, 2.0]),
)
@law(80)
def test_gradients_of_any_size_and_type_are_clipped_as_torch_clips_them_in_float64(
    place: str, per: str, exponent: int, seed: int, kinds: Any, norm_type: float, share: float
) -> None:
    shapes = [(5,), (4, 3), (0,), (), (0, 3), (6, 2, 2)]
    values = [numbers(seed + i, shapes[i], torch.float64, 10.0**exponent).to(kind) for i, kind in enumerate(kinds)]
    parameters = parameters_with(values)
    max_norm = share * 10.0**exponent
    with pytest.MonkeyPatch.context() as patch:
        if place == "accelerator":
            patch.setattr("lightning_tricks.numerics.norms._readable", lambda tensor: False)
        clips = Clips(ClipNorm(max_norm, norm_type), parameters, per)
        twins = {id(p): as_wide(p) for p in clips.parameters}
        for part in clips.parts():
            with_numbers = [twins[id(p)] for p in part if p.numel()]  # torch's inf norm of an empty tensor raises
            if with_numbers:
                clip_grad_norm_(with_numbers, max_norm, norm_type, foreach=False)
        clips.once()
    everything_double = all(kind in (torch.float64, torch.complex128) for kind in kinds)
    for p in clips.parameters:
        rel = {torch.bfloat16: 1e-2}.get(p.dtype, 1e-12 if everything_double else 3e-6)
        wide = p.grad.to(twins[id(p)].dtype)
        tiny = 1e-38 if p.dtype not in (torch.float64, torch.complex128) else 1e-300
        torch.testing.assert_close(wide, twins[id(p)].grad, rtol=rel, atol=tiny)


@given(exponent=EXPONENTS, per=st.sampled_from(["model", "layer"]), seed=seeds, double=st.booleans())
@law(60)
def test_the_highest_percentile_never_clips_and_what_is_counted_was_clipped(
    exponent: int, per: str, seed: int, double: bool
) -> None:
    dtype = torch.float64 if double else torch.float32
    highest, middle = ([nn.Parameter(torch.zeros(3, dtype=dtype)) for _ in range(2)] for _ in range(2))
    never, half = Clips(AutoClip(100.0, window=9), highest, per), Clips(AutoClip(50.0, window=9), middle, per)
    clipped = 0
    for i, size in enumerate(norms_of_a_run(seed, 20)):
        values = [numbers(seed + 2 * i + j, (3,), dtype, size * 10.0**exponent) for j in range(2)]
        for p, q, value in zip(highest, middle, values, strict=True):
            p.grad, q.grad = value.clone(), value.clone()
        never.once(), half.once()
        assert all(torch.equal(p.grad, value) for p, value in zip(highest, values, strict=True))
        changed = [not torch.equal(q.grad, value) for q, value in zip(middle, values, strict=True)]
        clipped += any(changed) if per == "model" else sum(changed)
    assert float(never.clipper.clipped_fraction()) == 0.0
    assert half.clipper.total("clipped") == clipped > 0


@given(st.sampled_from([torch.float32, torch.complex64, torch.float64]), EXPONENTS, seeds)
@law(60)
def test_adaptive_clipping_takes_units_of_any_size(dtype: torch.dtype, exponent: int, seed: int) -> None:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    shapes = [(4, 3), (5,), (0,), (0, 3), (3, 0), (), (4, 2, 2)]
    parameters = [nn.Parameter(numbers(seed + i, s, torch.float64, 1.0).to(dtype)) for i, s in enumerate(shapes)]
    for i, p in enumerate(parameters):
        p.grad = numbers(seed + 50 + i, tuple(p.shape), torch.float64, 10.0**exponent).to(dtype)
        if p.is_complex():
            p.grad = p.grad * complex(0.6, 0.8)
    clips = Clips(AGC(0.01, eps=1e-3), parameters, groups=1)
    wanted = []
    for p in parameters:
        weight, gradient = p.detach().to(wide), p.grad.to(wide)
        rows = range(len(weight)) if weight.ndim > 1 else [...]
        limits = [0.01 * max(float(torch.linalg.vector_norm(weight[i])), 1e-3) for i in rows]
        parts = [gradient[i] * min(1.0, c / (float(torch.linalg.vector_norm(gradient[i])) or 1.0))
                 for i, c in zip(rows, limits, strict=True)]  # fmt: skip
        wanted.append(torch.stack(parts).reshape(p.shape) if parts else gradient)
    clips.once()
    for p, value in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(p.grad.to(wide), value, rtol=1e-12 if p.dtype == torch.float64 else 3e-6, atol=1e-44)


def norms_of_a_run(seed: int, length: int) -> list[float]:
    """Gradient norms as they are in training: about 3, and a spike now and then."""
    drawn = np.random.default_rng(seed)
    sizes = 3.0 * np.exp(0.3 * drawn.standard_normal(length)) * np.where(drawn.random(length) < 0.2, 20, 1)
    return sizes.astype(np.float32).tolist()


def coefficients(rule: ClipRule, norms: list[float]) -> list[float]:
    """Those of a rule on a parameter of one number, whose gradient is its norm."""
    clips, out = Clips(rule, [nn.Parameter(torch.zeros(1))], groups=1), []
    for value in norms:
        clips.parameters[0].grad = torch.tensor([value])
        clips.once()
        out.append(float(clips.parameters[0].grad) / value)
    return out


@pytest.mark.parametrize("rule", ADAPTIVE, ids=lambda rule: type(rule).__name__)
@given(seed=seeds, factor=st.sampled_from([2.0**-80, 2.0**-30, 0.25, 64.0, 2.0**30, 2.0**80]))
@law(40)
def test_rules_that_learn_know_no_unit_of_measure(rule: ClipRule, seed: int, factor: float) -> None:
    norms = norms_of_a_run(seed, 24)
    found = coefficients(rule, norms)
    assert all(0 < c <= 1 for c in found)
    scaled = (
        replace(rule, absolute=factor * rule.absolute) if isinstance(rule, AdaGC) else rule
    )  # an absolute threshold
    assert coefficients(scaled, [factor * n for n in norms]) == pytest.approx(found, rel=1e-4)


@given(seeds, st.integers(1, 12), st.sampled_from([10.0, 50.0, 100.0]))
@law(40)
def test_autoclip_lets_nothing_beyond_the_percentile_of_what_was_seen(
    seed: int, window: int, percentile: float
) -> None:
    norms = norms_of_a_run(seed, 20)
    for i, c in enumerate(coefficients(AutoClip(percentile, window), norms)):
        threshold = float(np.percentile(norms[max(0, i + 1 - window) : i + 1], percentile))
        assert c * norms[i] == pytest.approx(min(norms[i], threshold), rel=1e-5)


@given(seeds, st.sampled_from([1.5, 2.5]))
@law(40)
def test_zclip_touches_spikes_only_and_lets_none_beyond_its_score(seed: int, z: float) -> None:
    norms, alpha, warmup = norms_of_a_run(seed, 24), 0.8, 5
    mean, spread = float(np.mean(norms[:warmup])), float(np.var(norms[:warmup]))
    found = coefficients(ZClip(alpha, z, warmup), norms)
    assert found[:warmup] == [1.0] * warmup
    for n, c in zip(norms[warmup:], found[warmup:], strict=True):
        usual = mean + z * math.sqrt(spread)
        assert c * n <= usual * (1 + 1e-4) if n > usual * (1 + 1e-4) else c == pytest.approx(1.0, abs=1e-4)
        mean = alpha * mean + (1 - alpha) * c * n
        spread = alpha * spread + (1 - alpha) * (c * n - mean) ** 2


@given(seeds, st.sampled_from([1.05, 1.5]), st.integers(1, 4))
@law(40)
def test_adagc_lets_a_tensor_grow_by_its_ratio_only(seed: int, relative: float, warmup: int) -> None:
    norms = norms_of_a_run(seed, 20)
    assume(min(norms) > 0)
    rule = AdaGC(beta=0.9, relative=relative, absolute=5.0, warmup=warmup)
    found, gamma = coefficients(rule, norms), math.inf
    for i, (n, c) in enumerate(zip(norms, found, strict=True)):
        limit = 5.0 if i < warmup else relative * gamma
        assert c * n == pytest.approx(min(n, limit), rel=1e-5)
        gamma = min(gamma, c * n) if i < warmup else 0.9 * gamma + 0.1 * c * n
