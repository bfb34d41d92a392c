"""Flat door to the pure functions and frozen rules of every room: tensors and numbers in, the same out."""

from lightning_tricks.accumulation.split import split_samples, split_sequence
from lightning_tricks.accumulation.weights import samples, tokens
from lightning_tricks.gradients.noise_scale import NoiseScale, signal_and_noise
from lightning_tricks.gradients.rules import adaptive_coefficient, clip_coefficients
from lightning_tricks.lr_finder.suggest import minimum, slide, steepest, valley
from lightning_tricks.lr_finder.sweep import smoothed
from lightning_tricks.measure.norms import (
    bounded_sample,
    group_norms,
    nonfinite,
    tensor_norms,
    total_norm,
    unit_norms,
)
from lightning_tricks.precision.advice import fp32_mode, peak_bytes, shape_findings
from lightning_tricks.precision.health import headroom, underflow
from lightning_tricks.precision.islands import in_fp32
from lightning_tricks.precision.watch import underflow_counts
from lightning_tricks.schedules.curves import warmup_factor
from lightning_tricks.schedules.phases import caught_up

__all__ = [
    "NoiseScale",
    "adaptive_coefficient",
    "bounded_sample",
    "caught_up",
    "clip_coefficients",
    "fp32_mode",
    "group_norms",
    "headroom",
    "in_fp32",
    "minimum",
    "nonfinite",
    "peak_bytes",
    "samples",
    "shape_findings",
    "signal_and_noise",
    "slide",
    "smoothed",
    "split_samples",
    "split_sequence",
    "steepest",
    "tensor_norms",
    "tokens",
    "total_norm",
    "underflow",
    "underflow_counts",
    "unit_norms",
    "valley",
    "warmup_factor",
]
