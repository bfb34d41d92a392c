"""Clipping, through the gradients of parameters: what torch's own functions do in float64, and the laws of a clip."""

from __future__ import annotations

import math
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
from lightning_tricks.runtime.gradient_writer import GradientWriter
from lightning_tricks.runtime.logbook import OptimizerView, Page
from lightning_tricks.runtime.scaler import LossScale
from tests.laws.strategies import NORM_TYPES, flat, gradients, law, numbers, parameters_with, seeds

ROUNDING = {torch.float16: 4e-3, torch.bfloat16: 2e-2, torch.float32: 3e-5, torch.float64: 3e-6}
ADAPTIVE = [AutoClip(30.0, window=7), ZClip(alpha=0.8, z=1.5, warmup=3), AdaGC(beta=0.8, warmup=3, absolute=1e12)]


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
        _, coefficients = self.clipper.clip(page, page.norms(self.clipper.rule.norm_kind), writer)
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
@given(seed=seeds, factor=st.sampled_from([0.25, 4.0, 64.0]))
@law(25)
def test_rules_that_learn_know_no_unit_of_measure(rule: ClipRule, seed: int, factor: float) -> None:
    norms = norms_of_a_run(seed, 24)
    found = coefficients(rule, norms)
    assert all(0 < c <= 1 for c in found)
    assert coefficients(rule, [factor * n for n in norms]) == pytest.approx(found, rel=1e-4)


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
