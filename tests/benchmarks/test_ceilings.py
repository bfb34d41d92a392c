from __future__ import annotations

import pytest
import torch

from benchmarks import ceilings
from benchmarks.counting import Roofline

CPU = torch.device("cpu")


def test_ceilings_are_measured_for_what_the_device_has() -> None:
    found = ceilings.measure(CPU, quick=True)
    assert set(found["flops"]) == {"ieee-fp32", "bf16-mixed", "bf16-true"}
    assert all(1e9 < f < 1e15 for f in found["flops"].values())
    assert 1e8 < found["bytes_per_second"] < 1e13


@pytest.mark.parametrize(
    ("gpu", "precision", "wanted"),
    [
        ("NVIDIA H200", "bf16-mixed", 989.5e12),
        ("NVIDIA H200 NVL", "bf16-mixed", 835.5e12),
        ("NVIDIA H100 NVL", "tf32", 417.7e12),
        ("NVIDIA H100 80GB HBM3", "torch-default", 494.7e12),
        ("NVIDIA H200", "ieee-fp32", 66.9e12),
        ("NVIDIA H100 PCIe", "16-mixed", 756e12),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156e12),
        ("Tesla V100-SXM2-16GB", "tf32", None),
        ("another", "tf32", None),
        (None, "tf32", None),
    ],
)
def test_the_datasheets_peaks_are_dense(gpu: str | None, precision: str, wanted: float | None) -> None:
    assert ceilings.datasheet(gpu, precision) == (None if wanted is None else pytest.approx(wanted))


def test_the_roofline_of_a_product_and_of_an_addition_are_known() -> None:
    a, b = torch.ones(100, 200), torch.ones(200, 50)
    with Roofline({torch.float32: 1e9}, 1e12) as bound:
        a @ b
    assert bound.seconds == pytest.approx(2 * 100 * 200 * 50 / 1e9)
    with Roofline({torch.float32: 1e12}, 1e9) as bound:
        a + a
    assert bound.bytes == 3 * a.nbytes
    assert bound.seconds == pytest.approx(3 * a.nbytes / 1e9)
    with Roofline({torch.float32: 1e12}, 1e9) as bound:
        a.t().reshape(-1, 2).view(2, -1)[0]
    assert bound.bytes <= 2 * a.nbytes, "views move nothing; the reshape of a transposed matrix copies"
