from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy

from lightning_tricks.diagnosis.loss_calls import LossCalls


def test_calls_are_recorded_however_the_function_is_reached() -> None:
    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, -100])
    with LossCalls() as calls:
        one = nn.CrossEntropyLoss()(logits, labels)
        two = cross_entropy(input=logits, target=labels, ignore_index=-100)
        three = F.nll_loss(logits.log_softmax(1), labels)
    assert [call.name for call in calls.found] == ["cross_entropy", "cross_entropy", "nll_loss"]
    assert torch.equal(calls.found[0].output, logits.detach()) and not calls.found[0].output.requires_grad
    assert calls.found[1].options["ignore_index"] == -100
    assert one.item() == two.item() == pytest.approx(three.item())
    one.backward()
    assert logits.grad is not None


def test_a_loss_that_calls_another_one_is_one_call_and_what_is_outside_is_none() -> None:
    with LossCalls() as calls:
        F.multilabel_soft_margin_loss(torch.zeros(2, 3), torch.ones(2, 3))
        F.ctc_loss(torch.zeros(5, 1, 3).log_softmax(2), torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2]))
        F.margin_ranking_loss(torch.zeros(2), torch.ones(2), torch.ones(2))
    F.mse_loss(torch.zeros(2), torch.ones(2))
    assert [call.name for call in calls.found] == ["ctc_loss", "margin_ranking_loss"]


def test_triplets_are_recorded_with_all_three_and_with_their_graph_where_that_is_asked_for() -> None:
    anchor, positive, negative = (torch.randn(4, 3, requires_grad=True) for _ in range(3))
    with LossCalls() as copies, LossCalls(tracked=True) as calls:
        nn.TripletMarginLoss()(anchor, positive, negative)
        nn.TripletMarginWithDistanceLoss()(anchor, positive, negative)
    assert [call.name for call in calls.found] == ["triplet_margin_loss", "triplet_margin_with_distance_loss"]
    for call in calls.found:
        assert call.output is anchor and call.target is positive and call.options["negative"] is negative
    assert torch.equal(copies.found[0].target, positive) and not copies.found[0].target.requires_grad
