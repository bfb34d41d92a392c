from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.diagnosis.loss_arguments import SHAPES, VALUES, misused
from lightning_tricks.diagnosis.loss_calls import LossCalls

N, K = 16, 5
G = torch.Generator().manual_seed(0)
LOGITS, OTHER = torch.randn(N, K, generator=G), torch.randn(N, K, generator=G)
LABELS = torch.randint(K, (N,), generator=G)
HOT = (torch.rand(N, K, generator=G) > 0.4).float()
SIGNS = (torch.rand(N, generator=G) > 0.5).float() * 2 - 1
STEPS = torch.randn(12, N, K, generator=G)


def ctc(given: Tensor) -> Tensor:
    lengths = (torch.full((N,), 12), torch.full((N,), 3))
    return F.ctc_loss(given, torch.ones(N, 3, dtype=torch.long), *lengths)


def hard(labels: Tensor) -> Tensor:
    return F.one_hot(labels, K).float()


VIEWS, SECOND = (F.normalize(torch.randn(N, 8, generator=G), dim=1) for _ in range(2))
BOTH = torch.cat([VIEWS, SECOND])
NOT_SELF = torch.eye(2 * N).bool()


WRONG: dict[str, tuple[Any, str, str]] = {
    "kl_div of probabilities": (lambda: F.kl_div(LOGITS.softmax(1), OTHER.softmax(1)), VALUES, "holds probabilities"),
    "kl_div of logits": (lambda: F.kl_div(LOGITS, OTHER.softmax(1)), VALUES, "other than log-probabilities"),
    "kl_div to logarithms": (lambda: F.kl_div(LOGITS.log_softmax(1), OTHER.log_softmax(1)), VALUES, "negative numbers"),
    "nll_loss of probabilities": (lambda: F.nll_loss(LOGITS.softmax(1), LABELS), VALUES, "is given probabilities"),
    "nll_loss of logits": (lambda: nn.NLLLoss()(LOGITS, LABELS), VALUES, "other than log-probabilities"),
    "softmax twice": (lambda: F.cross_entropy(LOGITS.softmax(1), LABELS), VALUES, "applied twice"),
    "softmax twice, soft labels": (lambda: F.cross_entropy(LOGITS.softmax(1), OTHER.softmax(1)), VALUES, "twice"),
    "a softmax over labels": (lambda: F.binary_cross_entropy(LOGITS.softmax(1), HOT), VALUES, "more than one label"),
    "labels of -1": (
        lambda: F.binary_cross_entropy_with_logits(LOGITS[:, 0], SIGNS),
        VALUES,
        "given targets from -1 to 1",
    ),
    "masks of 0 and 255": (lambda: F.binary_cross_entropy_with_logits(LOGITS, 255 * HOT), VALUES, "from 0 to 255"),
    "masks that were divided twice": (
        lambda: F.binary_cross_entropy_with_logits(LOGITS, HOT / 255),
        VALUES,
        "largest target of binary_cross_entropy_with_logits in a batch is 0.0039",
    ),
    "hinges of 0 and 1": (
        lambda: F.margin_ranking_loss(LOGITS[:, 0], LOGITS[:, 1], (SIGNS + 1) / 2),
        VALUES,
        "targets of 0 and 1",
    ),
    "cosines of 0 and 1": (lambda: F.cosine_embedding_loss(LOGITS, OTHER, (SIGNS + 1) / 2), VALUES, "targets of 0"),
    "soft margins of 0 and 1": (lambda: F.soft_margin_loss(LOGITS[:, 0], (SIGNS + 1) / 2), VALUES, "targets of 0"),
    "ctc of logits": (lambda: ctc(STEPS), VALUES, "ctc_loss is given numbers"),
    "views and themselves": (lambda: F.cross_entropy(VIEWS @ VIEWS.T / 0.2, torch.arange(N)), VALUES, "with itself"),
    "two views, each its own": (
        lambda: F.cross_entropy(BOTH @ BOTH.T / 0.5, torch.arange(2 * N)),
        VALUES,
        "the output of each label is 2, the largest of its row",
    ),
    "a column against a row": (lambda: F.mse_loss(LOGITS[:, :1], LOGITS[:, 0]), SHAPES, "compares (16, 16) pairs"),
    "a row against a column": (lambda: nn.HuberLoss()(LOGITS[:, 0], OTHER[:, :1]), SHAPES, "compares (16, 16) pairs"),
}
RIGHT: dict[str, Any] = {
    "kl_div": lambda: F.kl_div(LOGITS.log_softmax(1), OTHER.softmax(1), reduction="batchmean"),
    "kl_div of two logarithms": lambda: F.kl_div(LOGITS.log_softmax(1), OTHER.log_softmax(1), log_target=True),
    "kl_div in half precision": lambda: F.kl_div(LOGITS.log_softmax(1).bfloat16(), OTHER.softmax(1).bfloat16()),
    "kl_div over the first axis": lambda: F.kl_div(LOGITS.log_softmax(0), OTHER.softmax(0)),
    "nll_loss": lambda: F.nll_loss(LOGITS.log_softmax(1), LABELS),
    "nll_loss of pixels": lambda: F.nll_loss(STEPS.log_softmax(1), LABELS.repeat(12).view(12, N)[:, :K] % N),
    "cross_entropy": lambda: F.cross_entropy(LOGITS, LABELS),
    "cross_entropy of zeros": lambda: F.cross_entropy(torch.zeros(N, K), LABELS),
    "cross_entropy of logarithms": lambda: F.cross_entropy(LOGITS.log_softmax(1), LABELS),
    "one of two probabilities": lambda: F.binary_cross_entropy(LOGITS[:, :2].softmax(1), hard(LABELS % 2)[:, :2]),
    "a softmax and one label": lambda: F.binary_cross_entropy(LOGITS.softmax(1), hard(LABELS)),
    "several labels": lambda: F.binary_cross_entropy_with_logits(LOGITS, HOT),
    "smoothed labels": lambda: F.binary_cross_entropy_with_logits(LOGITS, 0.98 * HOT + 0.01),
    "smoothed labels, none there": lambda: F.binary_cross_entropy_with_logits(LOGITS, torch.full((N, K), 0.01)),
    "no label in this batch": lambda: F.binary_cross_entropy_with_logits(LOGITS, torch.zeros(N, K)),
    "small shares": lambda: F.binary_cross_entropy_with_logits(LOGITS, OTHER.sigmoid() / 100),
    "hinges": lambda: F.margin_ranking_loss(LOGITS[:, 0], LOGITS[:, 1], SIGNS),
    "cosines": lambda: F.cosine_embedding_loss(LOGITS, OTHER, SIGNS),
    "hinges of ones": lambda: F.margin_ranking_loss(LOGITS[:, 0], LOGITS[:, 1], torch.ones(N)),
    "ctc": lambda: ctc(STEPS.log_softmax(2)),
    "two towers": lambda: F.cross_entropy(VIEWS @ SECOND.T / 0.1, torch.arange(N)),
    "two towers that agree": lambda: F.cross_entropy(VIEWS @ F.normalize(VIEWS + 0.05 * SECOND).T, torch.arange(N)),
    "two views without the diagonal": lambda: F.cross_entropy(
        (BOTH @ BOTH.T / 0.5).masked_fill(NOT_SELF, -torch.inf), torch.arange(2 * N).roll(N)
    ),
    "one vector for all": lambda: F.cross_entropy(torch.ones(N, 8) @ torch.ones(8, N), torch.arange(N)),
    "one class for each of as many": lambda: F.cross_entropy(torch.randn(N, N, generator=G), torch.arange(N)),
    "errors": lambda: F.mse_loss(LOGITS, OTHER),
    "errors against one number": lambda: F.mse_loss(LOGITS, torch.tensor(0.5).expand(N, K)),
    "errors of all pairs": lambda: F.mse_loss(LOGITS[:, None].expand(N, N, K), OTHER[None].expand(N, N, K)),
    "errors of all pairs, broadcast": lambda: F.l1_loss(LOGITS[:, None], OTHER[None], reduction="none"),
    "NaN": lambda: F.nll_loss(LOGITS * torch.nan, LABELS),
    "few numbers": lambda: F.nll_loss(LOGITS[:1].softmax(1), LABELS[:1]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_meant_is_named(name: str) -> None:
    call, row, words = WRONG[name]
    with LossCalls() as calls:
        call()
    found = misused(calls.found)
    assert found is not None and found.passed is False and found.name == row
    assert words in found.evidence and found.fix


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.filterwarnings("ignore")
def test_what_can_be_meant_is_left_alone(name: str) -> None:
    with LossCalls() as calls:
        RIGHT[name]()
    assert calls.found and misused(calls.found) is None


def test_the_first_call_that_is_wrong_is_named() -> None:
    with LossCalls() as calls:
        F.cross_entropy(LOGITS, LABELS)
        F.nll_loss(LOGITS.softmax(1), LABELS)
    found = misused(calls.found)
    assert found is not None and "nll_loss" in found.evidence
