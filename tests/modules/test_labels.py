from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_tricks.modules.labels import counted, matched


@pytest.mark.parametrize("shape", [(6, 5), (3, 7, 5)])
def test_class_last(shape: tuple[int, ...]) -> None:
    logits, target = torch.randn(shape), torch.randint(5, shape[:-1])
    rows, labels = matched(logits, target) or (None, None)
    torch.testing.assert_close(cross_entropy(rows, labels), cross_entropy(logits.flatten(0, -2), target.flatten()))


def test_class_first_as_torch_wants_it() -> None:
    logits, target = torch.randn(2, 5, 4, 3), torch.randint(5, (2, 4, 3))
    rows, labels = matched(logits, target) or (None, None)
    torch.testing.assert_close(cross_entropy(rows, labels), cross_entropy(logits, target))


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_one_logit_for_two_classes(shape: tuple[int, ...]) -> None:
    logits, target = torch.randn(shape), torch.randint(2, (8,)).float()
    rows, labels = matched(logits, target) or (None, None)
    wanted = binary_cross_entropy_with_logits(logits.reshape(-1), target)
    torch.testing.assert_close(cross_entropy(rows, labels), wanted)


def test_what_does_not_fit_is_none() -> None:
    assert matched(torch.randn(4, 5), torch.randint(5, (3,))) is None
    assert matched(torch.randn(4, 5), torch.randn(4)) is None
    assert matched(torch.randn(4, 5), torch.randn(4, 5)) is None


def test_counts_leave_out_what_is_ignored() -> None:
    target = torch.tensor([[0, 2], [-100, 2]])
    assert counted(target, 4).tolist() == [1, 0, 2, 0]
