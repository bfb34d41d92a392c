"""The pooled skill against cross entropies of all samples together, and against chance."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_tricks.collapse.pooling import MOST_CHECKS, Part, pooled_skill


def part(probability: torch.Tensor, labels: torch.Tensor) -> Part:
    share = labels.double().mean()
    entropy = F.binary_cross_entropy(share.expand(len(labels)), labels.double()).item()
    loss = F.binary_cross_entropy(probability.double(), labels.double()).item()
    return Part(1 - loss / entropy if entropy else math.nan, len(labels) * entropy, float(labels.sum()))


def test_one_check_is_enough_where_both_classes_are_frequent() -> None:
    assert pooled_skill([Part(0.8, 150.0, 100.0), Part(0.1, 150.0, 100.0)])[0] == 0.1


def test_checks_are_weighted_with_what_their_labels_tell() -> None:
    parts = [Part(0.6, 30.0, 20.0), Part(0.0, 10.0, 5.0)]
    assert pooled_skill(parts)[0] == pytest.approx(0.6 * 30 / 40)


def test_a_model_that_knows_rare_labels_is_never_below_a_quarter_of_its_best() -> None:
    generator = torch.Generator().manual_seed(0)
    alone, together = [], []
    for _ in range(20):
        parts: list[Part] = []
        for _ in range(40):
            labels = torch.rand(224, generator=generator) < 0.012
            seen = torch.where(labels, 1.6, -4.9) + 1.2 * torch.randn(224, generator=generator)
            parts.append(part((0.5 * seen - 2.2).sigmoid(), labels.float()))
            found, parts = pooled_skill(parts)
            alone.append(parts[-1].skill)
            together.append(found)
    alone, together = ([x for x in xs if math.isfinite(x)] for xs in (alone, together))
    assert min(together) > 0.25 * max(together), "pooled skills differ little"
    assert min(alone) < 0.25 * max(alone), "those of single checks are noise"


def test_nothing_is_said_of_labels_that_are_nearly_all_the_same() -> None:
    found, kept = pooled_skill([Part(-3.0, 2.0, 1.0)] * 30)
    assert math.isnan(found) and len(kept) == MOST_CHECKS
    assert math.isnan(pooled_skill([Part(math.nan, 0.0, 0.0)] * 3)[0]) and math.isnan(pooled_skill([])[0])
