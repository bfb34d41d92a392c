"""Units that have stopped: dead, dormant or saturated. From what was seen of each unit; no Lightning."""

from __future__ import annotations

import torch
from torch import Tensor


def dead_share(largest: Tensor) -> Tensor:
    """Return the share of units that never were above 0, 0-d.

    Args:
        largest: of each unit's output over many samples (512 or more) ``[units]``.

    >>> dead_share(torch.tensor([0.0, 1.0, -0.1, 2.0]))
    tensor(0.5000)
    """
    return (largest <= 0).to(torch.get_default_dtype()).mean()


def dormant_share(mean_magnitude: Tensor, threshold: float = 0.025) -> Tensor:
    """Return the share of units with at most ``threshold`` of the layer's mean magnitude; 1 for a silent layer.

    For activations without a hard zero (GELU, SiLU) as well. Reference: Sokar et al., "The Dormant Neuron Phenomenon",
    2023, arXiv:2302.12902.

    >>> dormant_share(torch.tensor([1.0, 1.0, 0.001, 0.0]))
    tensor(0.5000)
    """
    level = mean_magnitude.mean()
    quiet = (mean_magnitude <= threshold * level).to(torch.get_default_dtype()).mean()
    return torch.where(level > 0, quiet, 1.0)


def saturated_share(outputs: Tensor, low: float, high: float, margin: float = 0.05) -> Tensor:
    """Return the share of outputs within ``margin`` of the ends of their range, 0-d.

    Args:
        outputs: any shape.
        low, high: ends: 0 and 1 for a sigmoid, -1 and 1 for tanh.
        margin: as a share of the range, at each end.

    >>> saturated_share(torch.tensor([0.01, 0.5, 0.99, 0.4]), 0.0, 1.0)
    tensor(0.5000)
    """
    edge = margin * (high - low)
    return ((outputs < low + edge) | (outputs > high - edge)).to(torch.get_default_dtype()).mean()
