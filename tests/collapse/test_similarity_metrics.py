from __future__ import annotations

import math

import numpy
import torch

from lightning_tricks.collapse.similarity_metrics import Alignment, Uniformity, VendiScore


def unit(features: torch.Tensor) -> numpy.ndarray:
    rows = features.double().numpy()
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)


def test_similarities_are_those_of_numpy() -> None:
    one, two = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    alignment, uniformity, vendi = Alignment(), Uniformity(), VendiScore()
    for a, b in zip(one.split(15), two.split(15), strict=True):
        alignment.update(a, b)
        uniformity.update(a)
        vendi.update(a)
    a, b = unit(one), unit(two)
    assert math.isclose(float(alignment.compute()), ((a - b) ** 2).sum(1).mean(), rel_tol=1e-6)
    pairs = ((a[:, None] - a[None]) ** 2).sum(2)[numpy.triu_indices(len(a), 1)]
    assert math.isclose(float(uniformity.compute()), math.log(numpy.exp(-2 * pairs).mean()), rel_tol=1e-5)
    values = numpy.linalg.eigvalsh(a @ a.T / len(a))
    values = values[values > 1e-12]
    assert math.isclose(float(vendi.compute()), math.exp(-(values * numpy.log(values)).sum()), rel_tol=1e-5)
