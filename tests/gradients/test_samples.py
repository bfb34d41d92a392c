from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_tricks.gradients.samples import histogram_sample, moves_and_sizes, update_ratio, weight_samples


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_update_ratio_is_that_of_plain_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(n, dtype=dtype)) for n in (1, 7, 300)]
    before, kept = weight_samples(weights), [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w in weights:
            w.add_(torch.randn_like(w) * 0.01)
    ratio = update_ratio(*moves_and_sizes(before, weights))
    wanted = [(w.detach().double() - k.double()).norm() / k.double().norm() for w, k in zip(weights, kept, strict=True)]
    torch.testing.assert_close(ratio.double(), torch.stack(wanted), rtol=1e-5, atol=0)


def test_weights_that_were_all_zero_have_no_ratio() -> None:
    weight = nn.Parameter(torch.zeros(3))
    before = weight_samples([weight])
    with torch.no_grad():
        weight.add_(1.0)
    moves, sizes = moves_and_sizes(before, [weight])
    assert (moves.item(), sizes.item()) == (pytest.approx(3**0.5), 0.0)
    assert update_ratio(moves, sizes).isnan().all()


def test_a_sample_is_a_copy_of_bounded_size() -> None:
    weight = nn.Parameter(torch.randn(200_000))
    (sample,) = weight_samples([weight])
    first = sample.clone()
    with torch.no_grad():
        weight.zero_()
    assert sample.numel() <= 65_536 and torch.equal(sample, first)


@pytest.mark.parametrize(
    ("gradient", "wanted"),
    [
        (torch.tensor([1.0, -2.0], dtype=torch.bfloat16), [2.0, -4.0]),
        (torch.tensor([1 + 2j, 3 - 1j]).conj(), [2.0, -4.0, 6.0, 2.0]),
    ],
    ids=["bfloat16", "complex"],
)
def test_a_histogram_holds_true_gradients_as_real_numbers(gradient: Tensor, wanted: list[float]) -> None:
    sample = histogram_sample(gradient, torch.tensor(2.0))
    assert sample.dtype == torch.float32 and sample.tolist() == wanted
    assert histogram_sample(gradient, None).tolist() == [v / 2 for v in wanted]
    assert histogram_sample(torch.randn(100_000), None).numel() <= 16_384
