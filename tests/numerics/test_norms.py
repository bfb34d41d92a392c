from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_tricks.functional import group_norms, nonfinite, tensor_norms, total_norm, unit_norms
from lightning_tricks.numerics.norms import NormPlan, largest_magnitude

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


SCALES = [1e-30, 1e-24, 1e-19, 1e-12, 1.0, 1e12, 1e19, 1e24, 1e30]
KINDS = [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.complex128]


@pytest.fixture(params=["host", "accelerator"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where norms are read: where the host sees the result at once, and where it must not look."""
    if request.param == "accelerator":
        monkeypatch.setattr("lightning_tricks.numerics.norms._readable", lambda tensor: False)
    return str(request.param)


def kind_of_number(dtype: torch.dtype) -> torch.dtype:
    """Float64 for what has float64's digits, else float32."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def oracle(t: torch.Tensor, p: float) -> float:
    wide = t.to(torch.complex128 if t.is_complex() else torch.float64).reshape(-1)
    return float(torch.linalg.vector_norm(wide, p)) if t.numel() else 0.0


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_norms_totals_and_groups_neither_overflow_nor_vanish(scale: float, dtype: torch.dtype, p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(7,), (7,), (7,), (7,), (5, 4), (0,), (3, 0), (), (30, 40)]
    tensors = [(scale * torch.randn(s, generator=generator, dtype=torch.complex128)).to(dtype) if dtype.is_complex
               else (scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype) for s in shapes]  # fmt: skip
    tensors.append(torch.zeros(6, dtype=dtype))
    rel = 1e-13 if kind_of_number(dtype) == torch.float64 else 2e-6
    wanted = [oracle(t, p) for t in tensors]
    for norms in (tensor_norms(tensors, p), NormPlan(tensors).norms(tensors, p)):
        assert norms.dtype == kind_of_number(dtype)
        assert norms.tolist() == pytest.approx(wanted, rel=rel, abs=0)
        total = oracle(torch.cat([t.reshape(-1) for t in tensors]), p)
        assert float(total_norm(norms, p)) == pytest.approx(total, rel=rel, abs=0)
        halves = group_norms(norms, torch.tensor([i % 2 for i in range(len(tensors))]), 2, p)
        for j, value in enumerate(halves.tolist()):
            assert value == pytest.approx(oracle(torch.cat([t.reshape(-1) for t in tensors[j::2]]), p), rel=rel, abs=0)
    for t in tensors:
        rows = t.reshape(1, t.numel()) if t.ndim < 2 else t
        got = unit_norms(t).reshape(-1)
        assert got.dtype == kind_of_number(dtype)
        assert got.tolist() == pytest.approx([oracle(row, 2.0) for row in rows], rel=rel, abs=0)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_every_tensor_has_its_own_norm_beside_others_of_any_size(p: float) -> None:
    tensors = [torch.full((9,), scale) for scale in SCALES] + [torch.zeros(9), torch.tensor([math.nan, 1.0])]
    got = tensor_norms(tensors, p).tolist()
    assert got[:-1] == pytest.approx([oracle(t, p) for t in tensors[:-1]], rel=2e-6, abs=0)
    assert math.isnan(got[-1])
    assert math.isnan(float(total_norm(torch.tensor([1.0, math.nan, math.inf]), p)))
    assert float(total_norm(torch.tensor([1.0, math.inf]), p)) == math.inf
    assert float(total_norm(torch.tensor([]), p)) == float(total_norm(torch.zeros(3), p)) == 0.0


def test_conjugated_and_transposed_complex_numbers_have_their_norm() -> None:
    t = torch.randn(4, 5, dtype=torch.complex64)
    for p in ORDERS:
        assert tensor_norms([t.mH, t.conj(), t], p).tolist() == pytest.approx([oracle(t, p)] * 3, rel=1e-5)


def test_mixed_types_are_read_in_the_widest_and_a_plan_says_when_it_does_not_fit() -> None:
    tensors = [torch.full((3,), 1e100, dtype=torch.float64), torch.ones(3), torch.ones(3, dtype=torch.complex64)]
    for norms in (tensor_norms(tensors), NormPlan(tensors).norms(tensors)):
        assert norms.tolist() == pytest.approx([3**0.5 * 1e100, 3**0.5, 3**0.5], rel=1e-12)
    assert float(total_norm(norms)) == pytest.approx(3**0.5 * 1e100)
    for other in (torch.float64, torch.complex64):
        with pytest.raises(RuntimeError):
            NormPlan([torch.ones(3)]).norms([torch.ones(3, dtype=other)])


def test_an_accelerator_without_float64_reads_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_tricks.numerics import norms

    monkeypatch.setattr(norms, "_readable", lambda tensor: False)
    monkeypatch.setattr(norms, "_has_float64", lambda kind: False)
    seen = []
    real = torch._foreach_norm
    monkeypatch.setattr(torch, "_foreach_norm", lambda *a, **k: seen.append(k["dtype"]) or real(*a, **k))
    assert tensor_norms([torch.tensor([3.0, 4.0])]).tolist() == [5.0]
    assert seen == [torch.float32]


def test_which_devices_have_float64_is_tried() -> None:
    from lightning_tricks.numerics.norms import _has_float64

    assert _has_float64("cpu") and _has_float64("meta")
    assert not _has_float64("mps"), "(none here)"


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_largest_magnitude_is_that_of_all_elements(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(7, 5).to(dtype)
    assert float(largest_magnitude(values)) == max(abs(x) for x in values.flatten().tolist())
    values[2, 3] = -torch.inf
    assert float(largest_magnitude(values)) == math.inf
    values[0, 0] = torch.nan
    assert math.isnan(largest_magnitude(values))
    assert float(largest_magnitude(values[:0])) == 0.0


def test_on_a_cpu_no_infinity_norm_of_torch_is_computed() -> None:
    """It takes 25 times as long as a look for the least and the largest element."""

    class Names(TorchDispatchMode):
        seen: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    tensors = [torch.randn(50, 50), torch.zeros(0), torch.ones(3)]
    with Names():
        found = tensor_norms(tensors, torch.inf)
    assert found.tolist() == [float(tensors[0].abs().max()), 0.0, 1.0]
    assert not [name for name in Names.seen if "norm" in name]
