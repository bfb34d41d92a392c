from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.diagnosis.recognition import LEFT_OUT, autoregressive, class_pair, recognised


def made(n: int = 32, k: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, k, generator=generator), torch.randint(k, (n,), generator=generator)


CLASSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, str]] = {
    "mean": (F.cross_entropy, 1.0, ""),
    "sum": (lambda z, y: F.cross_entropy(z, y, reduction="sum"), 32.0, ""),
    "minus": (lambda z, y: -F.cross_entropy(z, y), -1.0, ""),
    "softmax twice": (lambda z, y: F.cross_entropy(z.softmax(1), y), 1.0, "softmax"),
    "softmax over samples": (lambda z, y: F.nll_loss(z.softmax(0).log(), y), 1.0, "softmax over the batch"),
    "softmax over samples, twice": (lambda z, y: F.cross_entropy(z.softmax(0), y), 1.0, "softmax over the batch"),
    "log_softmax": (lambda z, y: F.nll_loss(z.log_softmax(1), y), 1.0, ""),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_loss_of_classes_is_recognised_with_its_factor(name: str) -> None:
    logits, labels = made()
    loss, factor, twice = CLASSES[name]
    found = recognised(float(loss(logits, labels)), [torch.randn(32, 7), logits], [labels])
    assert found is not None
    assert (found.kind, found.factor, found.twice) == ("cross entropy", factor, twice)
    assert found.target is labels
    assert found.value == pytest.approx(abs(float(loss(logits, labels)) / factor), rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2),
        lambda z, y: F.cross_entropy(z, y, weight=torch.tensor([1.0, 2, 3, 4, 5])),
        lambda z, y: F.cross_entropy(z, y) + 0.1 * z.square().mean(),
        lambda z, y: F.multi_margin_loss(z, y),
    ],
)
def test_another_loss_is_not_taken_for_one(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, labels = made()
    assert recognised(float(loss(logits, labels)), [logits], [labels]) is None
    assert recognised(float("nan"), [logits], [labels]) is None


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 3)])
def test_dense_labels_are_recognised_in_both_orders(shape: tuple[int, ...]) -> None:
    logits, labels = torch.randn(*shape, 5), torch.randint(5, shape)
    labels[0] = -100
    loss = float(F.cross_entropy(logits.flatten(0, -2), labels.flatten()))
    for given in (logits, logits.movedim(-1, 1)):
        found = recognised(loss, [given], [labels])
        assert found is not None
        assert found.labels is not None
        assert int((found.labels == LEFT_OUT).sum()) == labels[0].numel()


def test_a_squashed_output_is_told_from_logits_that_happen_to_be_small() -> None:
    z, y = torch.rand(64, 1) * 0.9, torch.randint(2, (64, 1)).float()
    plain = recognised(float(F.binary_cross_entropy_with_logits(z, y)), [z], [y])
    assert plain is not None
    assert plain.twice == ""
    p = z.sigmoid()
    twice = recognised(float(F.binary_cross_entropy_with_logits(p, y)), [p, z], [y])
    assert twice is not None
    assert twice.twice == "sigmoid"
    right = recognised(float(F.binary_cross_entropy(p, y)), [p, z], [y])
    assert right is not None
    assert right.twice == ""


@pytest.mark.parametrize(
    ("loss", "kind"),
    [(F.mse_loss, "squared error"), (F.l1_loss, "absolute error"), (F.smooth_l1_loss, "Huber loss")],
)
def test_losses_of_numbers_are_recognised(loss: Callable[..., Tensor], kind: str) -> None:
    p, t = torch.randn(16, 3), 3 * torch.randn(16, 3)
    found = recognised(float(loss(p, t)), [p], [t])
    assert found is not None
    assert (found.kind, found.factor) == (kind, 1.0)
    summed = recognised(float(loss(p, t, reduction="sum")), [p], [t])
    assert summed is not None
    assert summed.factor == 48


def test_the_next_token_is_recognised_as_a_target() -> None:
    tokens, logits = torch.randint(6, (4, 9)), torch.randn(4, 9, 6)
    loss = float(F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))
    for given in (logits, logits[:, :-1], logits[:, :-1].flatten(0, 1)):
        found = autoregressive(loss, [given], tokens)
        assert found is not None
        assert torch.equal(found.target, tokens[:, 1:])
    same = float(F.cross_entropy(logits.flatten(0, 1), tokens.flatten()))
    assert autoregressive(same, [logits], tokens) is None
    assert autoregressive(loss, [logits], tokens[0]) is None


def test_labels_that_are_no_class_make_no_pair() -> None:
    assert class_pair(torch.zeros(3, 2), torch.tensor([0, 1, 2])) is None
    assert class_pair(torch.zeros(3, 2), torch.tensor([-100, -1, -100])) is None


@pytest.mark.parametrize("padding", [0, 7])
def test_padding_that_the_loss_leaves_out_is_found_by_the_value_of_the_loss(padding: int) -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(1, 7, (8, 5), generator=g)
    labels[:, 3:] = padding
    labels[0] = padding
    logits = torch.randn(8, 5, 8, generator=g)
    for reduction in ("mean", "sum"):
        loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=padding, reduction=reduction)
        found = recognised(float(loss), [logits], [labels])
        assert found is not None and found.kind == "cross entropy" and found.labels is not None
        assert found.factor == (1.0 if reduction == "mean" else 21.0)
        assert int((found.labels >= 0).sum()) == 21
    assert recognised(float(loss) / 3, [logits], [labels]) is None
