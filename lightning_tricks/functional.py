"""All pure functions and frozen rules in one namespace: tensors and numbers in, the same out."""

from lightning_tricks.accumulation.split import split_samples, split_sequence
from lightning_tricks.accumulation.weights import samples, tokens
from lightning_tricks.collapse.association import permutation_test, pooled, standard_score
from lightning_tricks.collapse.generation import (
    coverage,
    density,
    histogram_correlation,
    mean_pairwise_distance,
    modes_captured,
    nearest_distance_ratio,
    neighbour_test,
    ngrams,
    pairwise_distance_ratio,
    precision,
    recall,
    repetition_rate,
    vendi_score,
)
from lightning_tricks.collapse.posterior import active_units, posterior_kl
from lightning_tricks.collapse.prediction import (
    balanced_skill,
    input_dependence,
    jensen_shannon,
    kullback_leibler,
    macro_f1,
    multilabel_skill,
    r_squared,
    skill,
    spread_ratio,
    trivial_macro_f1,
)
from lightning_tricks.collapse.recursive import (
    tail_mass,
    variance_ratio,
)
from lightning_tricks.collapse.representation import (
    alignment,
    covariance,
    dead_dimensions,
    effective_rank,
    embedding_std,
    mean_cosine,
    participation_ratio,
    spectrum,
    sphere_variance,
    uniformity,
)
from lightning_tricks.collapse.usage import expected_perplexity, expected_used, perplexity, unused_share
from lightning_tricks.gradients.noise_scale import NoiseScale, signal_and_noise
from lightning_tricks.gradients.rules import clip_coefficients
from lightning_tricks.gradients.units import adaptive_coefficient
from lightning_tricks.lr_finder.suggest import minimum, slide, steepest, valley
from lightning_tricks.lr_finder.sweep import smoothed
from lightning_tricks.numerics.norms import (
    group_norms,
    nonfinite,
    tensor_norms,
    total_norm,
    unit_norms,
)
from lightning_tricks.numerics.subset import bounded_sample
from lightning_tricks.numerics.units import (
    dead_share,
    dormant_share,
    saturated_share,
)
from lightning_tricks.precision.fp32_flags import fp32_mode
from lightning_tricks.precision.health import headroom, underflow
from lightning_tricks.precision.islands import in_fp32
from lightning_tricks.precision.peak_memory import peak_bytes
from lightning_tricks.precision.recommendation import shape_findings
from lightning_tricks.precision.watch import underflow_counts
from lightning_tricks.schedules.curves import warmup_factor
from lightning_tricks.schedules.run_curve import caught_up

__all__ = [
    "NoiseScale",
    "active_units",
    "adaptive_coefficient",
    "alignment",
    "balanced_skill",
    "bounded_sample",
    "caught_up",
    "clip_coefficients",
    "covariance",
    "coverage",
    "dead_dimensions",
    "dead_share",
    "density",
    "dormant_share",
    "effective_rank",
    "embedding_std",
    "expected_perplexity",
    "expected_used",
    "fp32_mode",
    "group_norms",
    "headroom",
    "histogram_correlation",
    "in_fp32",
    "input_dependence",
    "jensen_shannon",
    "kullback_leibler",
    "macro_f1",
    "mean_cosine",
    "mean_pairwise_distance",
    "minimum",
    "modes_captured",
    "multilabel_skill",
    "nearest_distance_ratio",
    "neighbour_test",
    "ngrams",
    "nonfinite",
    "pairwise_distance_ratio",
    "participation_ratio",
    "peak_bytes",
    "permutation_test",
    "perplexity",
    "pooled",
    "posterior_kl",
    "precision",
    "r_squared",
    "recall",
    "repetition_rate",
    "samples",
    "saturated_share",
    "shape_findings",
    "signal_and_noise",
    "skill",
    "slide",
    "smoothed",
    "spectrum",
    "sphere_variance",
    "split_samples",
    "split_sequence",
    "spread_ratio",
    "standard_score",
    "steepest",
    "tail_mass",
    "tensor_norms",
    "tokens",
    "total_norm",
    "trivial_macro_f1",
    "underflow",
    "underflow_counts",
    "uniformity",
    "unit_norms",
    "unused_share",
    "valley",
    "variance_ratio",
    "vendi_score",
    "warmup_factor",
]
