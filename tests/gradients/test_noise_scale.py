from __future__ import annotations

import pytest
import torch

from lightning_tricks.functional import NoiseScale, signal_and_noise


def test_signal_and_noise_are_unbiased() -> None:
    """Gradients of samples are N(m, s^2 I): the estimates must average to |m|^2 and d s^2."""
    torch.manual_seed(0)
    d, s, small, large = 50, 2.0, 4, 32
    mean = torch.ones(d) * 0.3
    samples = mean + s * torch.randn(4000, large, d)
    signals, noises = signal_and_noise(
        samples[:, :small].mean(1).norm(dim=1), samples.mean(1).norm(dim=1), small, large
    )
    assert float(signals.mean()) == pytest.approx(float(mean.square().sum()), rel=0.05)
    assert float(noises.mean()) == pytest.approx(d * s * s, rel=0.05)


def test_equal_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="large must be above small=4"):
        signal_and_noise(torch.ones(()), torch.ones(()), 4, 4)


def test_a_bad_estimate_does_not_enter() -> None:
    rule = NoiseScale(0.5)
    state = rule.update(torch.tensor(2.0), torch.tensor(8.0), rule.init(torch.device("cpu")))
    state = rule.update(torch.tensor(float("nan")), torch.tensor(float("inf")), state)
    assert float(rule.value(state)) == 4.0
