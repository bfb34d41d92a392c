"""What an alarm is called, why, and what to try. Numbers and texts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_tricks.collapse.structure import falls_with_depth
from lightning_tricks.detection.causes import Cause, Explained

_WITH_LABELS = "if the loss uses the labels: look whether they belong to the inputs, SanityCheck()"


def of_representation(
    active: Sequence[str], values: Mapping[str, float], layer: str, *, labelled: bool = False
) -> Explained:
    """Explain a collapsed representation.

    Args:
        labelled: whether batches hold labels; the remedies of self-supervision come behind then.
    """
    if not values.get("finite", 1.0):
        return nonfinite(f"outputs of {layer} are NaN or inf")
    first = (_WITH_LABELS,) if labelled else ()
    if "sphere_variance" in active:
        cosine = values.get("mean_cosine", float("nan"))
        reason = f"outputs of {layer} are nearly one vector: sphere variance {values['sphere_variance']:.3g} of 1, "
        return (
            Cause.COMPLETE_COLLAPSE,
            (reason + f"mean cosine {cosine:.3f}",),
            (
                *first,
                "stop the gradient of one branch, or add a predictor (SimSiam), or a variance term (VICReg)",
                "lower the learning rate",
                "check that the loss cannot be minimised by a constant",
            ),
        )
    if "rank_share" not in active:
        share = values["_size_share"]
        return (
            Cause.COMPLETE_COLLAPSE,
            (f"outputs of {layer} shrink to a point: their spread is {share:.2g} of that at the first check",),
            (
                *first,
                "check that the loss cannot be minimised by a constant: a determinant or a variance term left out, "
                "nothing that keeps samples apart",
                "lower the weight decay",
            ),
        )
    reason = f"outputs of {layer} use few dimensions: effective rank {values['effective_rank']:.1f}, "
    return (
        Cause.DIMENSIONAL_COLLAPSE,
        (reason + f"{values['rank_share']:.0%} of what is possible",),
        (
            *first,
            "add a covariance or redundancy term (VICReg, Barlow Twins), or stop the gradient of one branch (SimSiam)",
            "lower the learning rate or the weight decay",
            "widen or deepen the projector",
        ),
    )


def of_depth(
    active: Sequence[str], values: Mapping[str, float], layers: Sequence[str], *, labelled: bool = False
) -> Explained:
    """Explain the collapse of one or several of many layers: by depth, or that of the worst one.

    Args:
        layers: from the first to the last.
        labelled: whether batches hold labels.
    """
    kinds = [name for name in ("sphere_variance", "rank_share") if any(a.startswith(f"{name}/") for a in active)]
    depth = {name: [values[f"{name}/{layer}"] for layer in layers] for name in ("sphere_variance", "rank_share")}
    worst = min(
        (a.split("/", 1)[1] for a in active if a.startswith(f"{kinds[0]}/")), key=lambda n: values[f"{kinds[0]}/{n}"]
    )
    own = {name.removesuffix(f"/{worst}"): x for name, x in values.items() if name.endswith(f"/{worst}")}
    falls = [name for name in kinds if falls_with_depth(depth[name])]
    if not falls or not own.get("finite", 1.0):
        return of_representation(kinds, own, worst, labelled=labelled)
    told = {"sphere_variance": "the variance of directions", "rank_share": "the share of the possible rank"}
    reasons = tuple(
        f"{told[n]} falls with depth, from {depth[n][0]:.2g} at {layers[0]} to {min(depth[n]):.2g} at "
        f"{layers[depth[n].index(min(depth[n]))]}"
        for n in falls
    )
    advice = (
        "use fewer layers, or residual or initial connections (GCNII), or jumping knowledge",
        "normalise between layers (PairNorm), or drop edges (DropEdge)",
        "in transformers: check the residual connections and the scale of the attention",
    )
    return Cause.OVERSMOOTHING, reasons, advice


def nonfinite(reason: str) -> Explained:
    """Explain values that are NaN or inf.

    >>> nonfinite("the loss is nan")[0]
    Cause.NON_FINITE
    """
    advice = (
        "go back to a checkpoint and lower the learning rate",
        "skip such updates: GradientClip(1.0, nonfinite='skip')",
        "find the module: TrainingDoctor(), PrecisionDoctor()",
    )
    return Cause.NON_FINITE, (reason,), advice


def of_modes(values: Mapping[str, float], generator: str, active: Sequence[str] = ("recall",)) -> Explained:
    """Explain a generator that misses modes, or whose samples lie far from all real ones."""
    reason = (
        f"samples of {generator} cover {values['recall']:.0%} of real ones (coverage {values['coverage']:.0%}), "
        f"and lie {values['pairwise_distance_ratio']:.2f} times as far apart"
    )
    if "recall" not in active:
        reason = (
            f"{values['precision']:.0%} of the samples of {generator} lie among real ones, and "
            f"{values['coverage']:.0%} of real ones have a sample near them"
        )
    return (
        Cause.MODE_COLLAPSE,
        (reason,),
        (
            "lower the generator's learning rate, or update the discriminator more often",
            "use a gradient penalty or spectral normalisation (WGAN-GP, SN-GAN)",
            "show the discriminator whole batches (minibatch discrimination)",
        ),
    )


def of_units(kind: str, layer: str, share: float) -> Explained:
    """Explain units that have stopped.

    >>> of_units("dead", "net.1", 0.96)[1]
    ('96% of the units of net.1 are dead',)
    """
    advice = {
        "dead": (
            "lower the learning rate, or warm up",
            "use LeakyReLU or GELU, or initialise biases at 0 or above",
            "normalise inputs and activations",
        ),
        "saturated": (
            "use smaller initial weights, or normalise before the activation",
            "use ReLU or GELU in deep networks",
            "lower the learning rate",
        ),
        "dormant": ("lower the learning rate", "normalise activations", "reset the units (ReDo)"),
    }[kind]
    return Cause.named(f"{kind} units"), (f"{share:.0%} of the units of {layer} are {kind}",), advice


def of_drift(active: Sequence[str], values: Mapping[str, float]) -> Explained:
    """Explain generated samples that lose diversity."""
    if "diversity" not in active and "closeness" not in active:
        real = values["real_repetition"]
        reason = f"{values['repetition']:.0%} of generated n-grams are repeated, {real:.0%} of real ones"
        advice = ("sample at a higher temperature", "train with an unlikelihood or entropy term", "look at the samples")
        return Cause.REPETITION, (reason,), advice
    lost = [f"diversity is {values['diversity']:.0%} of what it was at best"] if "diversity" in active else []
    if "real_loss_ratio" in values:
        lost.append(f"the loss on real data is {values['real_loss_ratio']:.2f} times what it was at best")
    return (
        Cause.RECURSIVE_COLLAPSE,
        tuple(lost),
        (
            'keep real data in the mix: MixedGenerations(real, generated, mode="accumulate")',
            "generate more samples than you train on, and filter them",
            "train fewer generations on generated data",
        ),
    )
