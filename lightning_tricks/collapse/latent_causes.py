"""Why entries or latent variables are not used, and what to try. Numbers and texts only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_tricks.collapse.causes import nonfinite
from lightning_tricks.detection.causes import Cause, Explained

_RANDOM = 0.05  # of the entropy of all actions alike: below it a policy no longer explores


_USAGE_ADVICE: dict[str, tuple[Cause, tuple[str, ...]]] = {
    "codebook": (
        Cause.CODEBOOK_COLLAPSE,
        (
            "replace codes that are never used by encoder outputs of the batch (code reset)",
            "update the codebook by exponential moving averages, and initialise it by k-means on encoder outputs",
            "normalise encoder outputs and codes, use fewer dimensions for the lookup, or fewer codes",
        ),
    ),
    "router": (
        Cause.ROUTER_COLLAPSE,
        (
            "add a load-balancing loss, or raise its weight (Switch Transformers: 0.01)",
            "add a router z-loss, compute the router in float32, and lower its learning rate",
            "limit the capacity of an expert, or add noise to the router's logits",
        ),
    ),
    "prototypes": (
        Cause.PROTOTYPE_COLLAPSE,
        (
            "centre the teacher's outputs, or assign by Sinkhorn-Knopp with more iterations",
            "lower the teacher's temperature if outputs are uniform, raise it if one prototype takes all",
            "lower the learning rate, or freeze the prototypes during the first epoch (SwAV)",
        ),
    ),
    "policy": (
        Cause.POLICY_COLLAPSE,
        (
            "add an entropy bonus, or raise its weight",
            "lower the learning rate, or bound the update (clipping of PPO, a KL penalty)",
            "normalise advantages, and check the sign of the reward",
        ),
    ),
}


def of_usage(kind: str, active: Sequence[str], values: Mapping[str, float], module: str) -> Explained:
    """Explain that few entries of a codebook, experts, prototypes or actions are in use.

    >>> values = {"perplexity": 1.2, "entries": 64.0, "unused_share": 0.9, "top_share": 0.98, "top_entry": 3.0}
    >>> of_usage("router", ["usage"], {**values, "samples": 512.0}, "gate")[1][0]
    'gate: 90% of 64 experts are not used by 512 samples, and 98% of these go to expert 3'
    """
    if not values.get("finite", 1.0):
        return nonfinite(f"outputs of {module} are NaN or inf")
    cause, advice = _USAGE_ADVICE[kind]
    entries = f"{values['entries']:.0f}"
    if "information" in active and "capacity" not in active:
        found = f"{module} gives all inputs the same probabilities: conditional entropy "
        found += f"{values['conditional_entropy']:.3f}, entropy of their mean {values['marginal_entropy']:.3f} nats"
        return cause, (found,), advice
    # (2: the entropy of a single action is 0)
    random = values.get("conditional_entropy", math.inf) / math.log(max(2.0, values["entries"]))
    if kind == "policy" and "variety" not in active and random > _RANDOM:
        found = (
            f"the reward of {module} has fallen clearly below its beginning, to {values.get('reward', math.nan):.3g}"
        )
        return cause, (found,), ("check the sign of the reward, of the advantage and of the loss", *advice[1:])
    if kind == "policy" and "variety" not in active:
        found = f"the entropy of {module} fell to {values['conditional_entropy']:.3g} nats, but the reward did not rise"
        return cause, (found,), advice
    one, several = {
        "codebook": ("code", "codes"),
        "router": ("expert", "experts"),
        "prototypes": ("prototype", "prototypes"),
        "policy": ("action", "actions"),
    }[kind]
    if kind == "policy":
        found = f"{module} takes one action whatever the state: the entropy of its mean over {values['samples']:.0f} "
        found += f"states is {values['marginal_entropy']:.3g} nats with {entries} {several}"
        return cause, (found,), advice
    found = f"{module}: {values['unused_share']:.0%} of {entries} {several} are not used by {values['samples']:.0f} "
    found += f"samples, and {values['top_share']:.0%} of these go to {one} {values['top_entry']:.0f}"
    return cause, (found, f"the perplexity is {values['perplexity']:.3g} of {entries}"), advice


def of_posterior(active: Sequence[str], values: Mapping[str, float], module: str, peak: float) -> Explained:
    """Explain latent variables that carry nothing.

    >>> values = {"kl": 0.01, "active_units": 0.0, "_units": 8.0, "largest_mean_variance": 0.0}
    >>> of_posterior(["kl"], values, "mu", 0.2)[1]
    ('the KL divergence from the prior is 0.01 nats in all 8 dimensions of mu', '0 of 8 units are active')
    """
    if not values.get("finite", 1.0):
        return nonfinite(f"the posterior of {module} is NaN or inf")
    units = f"{values['_units']:.0f}"
    divergence = f"the KL divergence from the prior is {values['kl']:.3g} nats"
    if "kl" in active:
        reasons = [f"{divergence} in all {units} dimensions of {module}"]
    elif "fallen" in active:
        reasons = [f"{divergence}, after {peak:.3g} at its highest"]
    else:
        found = f"the largest variance of a posterior mean is {values['largest_mean_variance']:.2g}"
        reasons = [f"the posterior of {module} is the same for all inputs: {found}"]
    return (
        Cause.POSTERIOR_COLLAPSE,
        (*reasons, f"{values['active_units']:.0f} of {units} units are active"),
        (
            "let the weight of the KL term rise from 0, once or in cycles (KL annealing)",
            "give each dimension free bits, and check that both terms of the loss are sums over the same dimensions",
            "weaken the decoder (word dropout, fewer skip connections), or train the encoder more often than it",
        ),
    )
