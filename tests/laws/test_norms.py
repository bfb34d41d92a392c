"""Norms: the parts compose to the whole, and are what torch says of the concatenation in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks.gradients.parts import Parts
from lightning_tricks.numerics.norms import NormPlan, group_norms, nonfinite, tensor_norms, total_norm
from tests.laws.strategies import NORM_TYPES, double, flat, gradients, law, seeds

CPU = torch.device("cpu")


def oracle(tensors: Any, norm_type: float) -> float:
    whole = flat(tensors)
    return float(torch.linalg.vector_norm(whole, norm_type)) if whole.numel() else 0.0


@given(gradients(), st.sampled_from(NORM_TYPES), st.lists(st.integers(0, 3), min_size=7, max_size=7))
@law(200)
def test_norms_of_groups_are_torchs_and_compose_to_that_of_the_whole(
    tensors: Any, norm_type: float, drawn: list[int]
) -> None:
    group_of, wanted = drawn[: len(tensors)], oracle(tensors, norm_type)
    norms = NormPlan(tensors).norms(tensors, norm_type)
    torch.testing.assert_close(norms, tensor_norms(tensors, norm_type), rtol=1e-6, atol=0)
    groups = group_norms(norms, torch.tensor(group_of), 4, norm_type)
    for j in range(4):
        own = [t for t, k in zip(tensors, group_of, strict=True) if k == j]
        assert float(groups[j]) == pytest.approx(oracle(own, norm_type) if own else 0.0, rel=2e-5), "a group"
    for whole in (total_norm(norms, norm_type), total_norm(groups, norm_type)):
        assert float(whole) == pytest.approx(wanted, rel=2e-5)


@given(gradients(), st.sampled_from(NORM_TYPES), st.integers(1, 4))
@law(50)
def test_however_the_parameters_are_split_the_total_is_the_same(tensors: Any, norm_type: float, size: int) -> None:
    norms = tensor_norms(tensors, norm_type)
    splits = [
        Parts.of_model(len(tensors)),
        Parts.of_layers([f"p{i}" for i in range(len(tensors))]),
        Parts.of_groups([f"g{j}" for j in range(size)], [i % size for i in range(len(tensors))], CPU),
    ]
    for parts in splits:
        total = total_norm(parts.norms(norms, norm_type), norm_type)
        assert float(total) == pytest.approx(oracle(tensors, norm_type), rel=2e-5)


@given(seeds, st.floats(-30, 30).map(lambda x: 10.0**x), st.sampled_from([0.5, 1.0, 2.0, 3.0, 9.0, float("inf")]))
@law(150)
def test_squares_of_large_and_small_norms_neither_overflow_nor_vanish(seed: int, size: float, norm_type: float) -> None:
    norms = size * (0.1 + torch.rand(6, generator=torch.Generator().manual_seed(seed)))
    wanted = float(torch.linalg.vector_norm(norms.double(), norm_type))
    groups = group_norms(norms, torch.zeros(6, dtype=torch.int64), 1, norm_type)
    assert float(groups[0]) == pytest.approx(wanted, rel=1e-5)
    assert float(total_norm(norms, norm_type)) == pytest.approx(wanted, rel=1e-5)


@given(gradients(dtypes=(torch.float32, torch.float64)), st.integers(0, 6), st.sampled_from(["nan", "inf", "-inf"]))
@law(60)
def test_one_number_that_is_not_finite_is_found_in_its_tensor_and_in_the_total(
    tensors: Any, which: int, bad: str
) -> None:
    whole = [t.contiguous().clone() for t in tensors]
    hit = which % len(whole)
    if whole[hit].numel() == 0:
        whole[hit] = torch.zeros(1)
    whole[hit].view(-1)[-1] = float(bad)
    norms = tensor_norms(whole)
    assert nonfinite(norms).tolist() == [i == hit for i in range(len(whole))]
    assert not total_norm(norms).isfinite()
    others = [double([t])[0] for i, t in enumerate(whole) if i != hit]
    assert all(t.isfinite().all() for t in others)
