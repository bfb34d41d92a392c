from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks.functional import bounded_sample, group_norms, nonfinite, tensor_norms, total_norm, unit_norms
from lightning_tricks.measure.norms import NormPlan

ORDERS = [0.5, 1.0, 2.0, 3.0, math.inf]


def some(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(5,), (5,), (5,), (5,), (3, 4), (2, 3, 2), (), (3, 4), (3, 4), (3, 4), (0,), (2000,)]
    return [torch.randn(s).to(dtype) for s in shapes]


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_norms_are_those_of_float64(p: float, dtype: torch.dtype) -> None:
    tensors = some(dtype)
    expected = [float(t.double().abs().max()) if p == math.inf and t.numel() else float((t.double().abs() ** p).sum() ** (1 / p)) if t.numel() else 0.0 for t in tensors]  # fmt: skip
    for got in (tensor_norms(tensors, p), NormPlan(tensors).norms(tensors, p)):
        assert got.dtype == torch.float32
        assert got.tolist() == pytest.approx(expected, rel=2e-5)


def test_half_precision_norms_do_not_overflow() -> None:
    t = torch.full((100,), 60000.0, dtype=torch.float16)
    assert float(tensor_norms([t])[0]) == pytest.approx(600000.0)


def test_no_tensors_give_no_norms() -> None:
    assert tensor_norms([]).shape == (0,)


@pytest.mark.parametrize("p", ORDERS)
def test_total_and_groups_are_norms_of_the_concatenation(p: float) -> None:
    tensors = some()
    norms = tensor_norms(tensors, p)
    flat = torch.cat([t.reshape(-1) for t in tensors]).double()
    assert float(total_norm(norms, p)) == pytest.approx(float(flat.norm(p)), rel=1e-5)
    group_of = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 0, 2])
    for j, value in enumerate(group_norms(norms, group_of, 4, p).tolist()):
        own = [t.reshape(-1) for t, g in zip(tensors, group_of.tolist(), strict=True) if g == j]
        assert value == pytest.approx(float(torch.cat(own).double().norm(p)) if own else 0.0, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=8), st.sampled_from([1.0, 2.0, 4.0]))
def test_group_norms_compose_without_overflow(values: list[float], p: float) -> None:
    norms = torch.tensor(values)
    split = group_norms(norms, torch.arange(len(values)) % 2, 2, p)
    joined = float(group_norms(split, torch.zeros(2, dtype=torch.int64), 1, p)[0])
    assert joined == pytest.approx(float(norms.double().norm(p)), rel=1e-4, abs=1e-30)


def test_a_bad_tensor_is_named_by_its_place() -> None:
    tensors = some()
    tensors[1][0], tensors[4][1, 1] = float("nan"), float("inf")
    for norms in (tensor_norms(tensors), NormPlan(tensors).norms(tensors)):
        assert nonfinite(norms).nonzero().flatten().tolist() == [1, 4]


def test_unit_norms_are_per_row_filter_or_vector() -> None:
    filters, bias = torch.randn(4, 3, 2, 2), torch.randn(7)
    assert unit_norms(filters).flatten().tolist() == pytest.approx([float(f.norm()) for f in filters])
    assert unit_norms(filters).shape == (4, 1, 1, 1)
    assert float(unit_norms(bias)) == pytest.approx(float(bias.norm()))


@given(st.integers(1, 500), st.integers(1, 50))
def test_a_sample_is_bounded_and_of_different_elements(n: int, limit: int) -> None:
    sample = bounded_sample(torch.arange(n), limit)
    assert len(sample) == len(sample.unique()) == min(n, limit)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 2000))
def test_of_a_matrix_all_columns_and_rows_are_sampled(n: int, width: int, limit: int) -> None:
    """With every k-th element of it, only columns are seen that have a divisor in common with k."""
    places = torch.arange(n * width).reshape(n, width)
    sample = bounded_sample(places, limit)
    columns = torch.bincount(sample % width, minlength=width)
    assert int(columns.max() - columns.min()) <= 1
    rows = (sample // width).unique()
    assert int(torch.cat([rows, rows[:1] + n]).diff().max()) <= max(1, 4 * math.ceil(n / min(limit, n * width)))


def test_what_is_small_is_seen_whole_and_not_copied() -> None:
    tensor = torch.randn(4, 5)
    assert bounded_sample(tensor).data_ptr() == tensor.data_ptr()
