from __future__ import annotations

import pytest
import torch

from lightning_tricks import TrickError
from lightning_tricks.functional import NoiseScale, signal_and_noise
from lightning_tricks.gradients.noise_scale import NoiseMeter


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


def window(meter: NoiseMeter, sizes: list[int], first_norm: float) -> None:
    meter.window.begin()
    for size in sizes:
        meter.window.next_size = size
        meter.window.add()
    meter.window.first_norm = torch.tensor(first_norm)


def test_a_meter_averages_the_estimates_of_its_windows() -> None:
    meter = NoiseMeter()
    assert not meter.measures and meter.batch_size is None and meter.state() is None
    meter.start(None, torch.device("cpu"))
    rule, state = NoiseScale(), NoiseScale().init(torch.device("cpu"))
    for first, norm in ((3.0, 2.0), (4.0, 2.5)):
        window(meter, [2, 2, 2], first)
        state = rule.update(*signal_and_noise(torch.tensor(first), torch.tensor(norm), 2, 6), state)
        value = meter.measure(torch.tensor(norm), 1, synced=False)
        assert value is not None and float(value) == float(rule.value(state))
    assert meter.batch_size == round(float(rule.value(state)))
    resumed = NoiseMeter()
    resumed.start(meter.state(), torch.device("cpu"))
    assert resumed.batch_size == meter.batch_size


def test_a_window_of_one_micro_batch_shows_nothing() -> None:
    meter = NoiseMeter()
    meter.start(None, torch.device("cpu"))
    window(meter, [8], 1.0)
    assert meter.measure(torch.tensor(1.0), 1, synced=False) is None
    with pytest.raises(TrickError, match="GradientMonitor: the checkpoint's state has"):
        meter.start({"mean": torch.zeros(3)}, torch.device("cpu"))
