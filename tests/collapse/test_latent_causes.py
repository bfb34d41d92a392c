from __future__ import annotations

import pytest

from lightning_tricks.collapse import latent_causes

USAGE = {"perplexity": 1.1, "entries": 8.0, "unused_share": 0.75, "top_share": 0.97, "top_entry": 2.0, "samples": 512.0}


ENTROPIES = {"marginal_entropy": 0.02, "conditional_entropy": 0.01}


@pytest.mark.parametrize(
    ("kind", "active", "cause", "reason"),
    [
        ("codebook", ["capacity"], "codebook collapse", "75% of 8 codes are not used by 512 samples"),
        ("router", ["usage", "balance"], "router collapse", "97% of these go to expert 2"),
        ("prototypes", ["capacity", "information"], "prototype collapse", "75% of 8 prototypes are not used"),
        ("prototypes", ["information"], "prototype collapse", "conditional entropy 0.010, entropy of their mean 0.020"),
        ("policy", ["variety"], "policy collapse", "one action whatever the state: the entropy of its mean over 512"),
        ("policy", ["exploration"], "policy collapse", "fell to 0.01 nats, but the reward did not rise"),
    ],
)
def test_causes_of_usage(kind: str, active: list[str], cause: str, reason: str) -> None:
    found, reasons, advice = latent_causes.of_usage(kind, active, {**USAGE, **ENTROPIES}, "chooser")
    assert found == cause and reason in reasons[0] and len(advice) == 3
    assert latent_causes.of_usage(kind, active, {**USAGE, "finite": 0.0}, "chooser")[0] == "non-finite values"


@pytest.mark.parametrize(
    ("active", "reason"),
    [
        (["kl", "mean_variance"], "0.02 nats in all 8 dimensions of mu"),
        (["fallen"], "is 0.02 nats, after 40 at its highest"),
        (["mean_variance"], "is the same for all inputs: the largest variance of a posterior mean is 0.001"),
    ],
)
def test_causes_of_posteriors(active: list[str], reason: str) -> None:
    values = {"kl": 0.02, "active_units": 0.0, "_units": 8.0, "largest_mean_variance": 0.001}
    found, reasons, _ = latent_causes.of_posterior(active, values, "mu", 40.0)
    assert found == "posterior collapse" and reason in reasons[0] and reasons[1] == "0 of 8 units are active"
    assert latent_causes.of_posterior(active, {**values, "finite": 0.0}, "mu", 40.0)[0] == "non-finite values"


def test_a_reward_that_fell_is_told_from_an_entropy_that_did() -> None:
    values = {"finite": 1.0, "entries": 4.0, "conditional_entropy": 0.9, "marginal_entropy": 1.3, "reward": 0.02}
    assert latent_causes.of_usage("policy", ["exploration"], values, "net")[1] == (
        "the reward of net has fallen clearly below its beginning, to 0.02",
    )
    low = latent_causes.of_usage("policy", ["exploration"], {**values, "conditional_entropy": 0.01}, "net")
    assert low[1] == ("the entropy of net fell to 0.01 nats, but the reward did not rise",)
