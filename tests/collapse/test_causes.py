from __future__ import annotations

import pytest

from lightning_tricks.collapse import causes


def test_a_rank_that_falls_with_depth_is_oversmoothing_and_one_that_does_not_is_not() -> None:
    def values(ranks: list[float]) -> dict[str, float]:
        names = ("sphere_variance", "rank_share", "effective_rank", "mean_cosine", "finite")
        return {f"{name}/l{i}": rank for i, rank in enumerate(ranks) for name in names}

    layers = ["l0", "l1", "l2", "l3"]
    found, reasons, advice = causes.of_depth(["rank_share/l3"], values([0.9, 0.5, 0.2, 0.05]), layers)
    assert found == "oversmoothing"
    assert reasons == ("the share of the possible rank falls with depth, from 0.9 at l0 to 0.05 at l3",)
    assert len(advice) == 3
    assert causes.of_depth(["rank_share/l1"], values([0.15, 0.1, 0.2, 0.15]), layers)[0] == "dimensional collapse"
    assert causes.of_depth(["sphere_variance/l2"], values([0.04, 0.05, 0.03, 0.06]), layers)[0] == "complete collapse"
    broken = {**values([0.9, 0.5, 0.2, 0.05]), "finite/l3": 0.0}
    assert causes.of_depth(["rank_share/l3"], broken, layers)[0] == "non-finite values"


def test_causes_of_the_others() -> None:
    values = {"sphere_variance": 0.01, "mean_cosine": 0.99, "effective_rank": 3.0, "rank_share": 0.05}
    assert causes.of_representation(["sphere_variance", "rank_share"], values, "z")[0] == "complete collapse"
    assert causes.of_representation(["rank_share"], values, "z")[0] == "dimensional collapse"
    cause, reasons, _ = causes.of_representation(["size_share"], {**values, "_size_share": 0.08}, "z")
    assert cause == "complete collapse" and "is 0.08 of that at the first check" in reasons[0]
    assert causes.of_representation(["rank_share", "size_share"], values, "z")[0] == "dimensional collapse"
    assert causes.of_representation(["rank_share"], {**values, "finite": 0.0}, "z")[0] == "non-finite values"
    modes = {"recall": 0.1, "coverage": 0.2, "pairwise_distance_ratio": 0.3}
    assert "cover 10% of real ones" in causes.of_modes(modes, "g")[1][0]
    for kind in ("dead", "saturated", "dormant"):
        assert causes.of_units(kind, "net.1", 0.9)[0] == f"{kind} units"
    drift = {"diversity": 0.5, "real_loss_ratio": 1.4, "repetition": 0.9, "real_repetition": 0.1}
    assert causes.of_drift(["diversity", "repetition"], drift)[0] == "recursive collapse"
    far = causes.of_drift(["closeness"], {"diversity": 0.98, "real_loss_ratio": 3.0})
    assert far[0] == "recursive collapse" and far[1] == ("the loss on real data is 3.00 times what it was at best",)
    assert "90% of generated n-grams are repeated, 10% of real ones" in causes.of_drift(["repetition"], drift)[1][0]


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
    found, reasons, advice = causes.of_usage(kind, active, {**USAGE, **ENTROPIES}, "chooser")
    assert found == cause and reason in reasons[0] and len(advice) == 3
    assert causes.of_usage(kind, active, {**USAGE, "finite": 0.0}, "chooser")[0] == "non-finite values"


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
    found, reasons, _ = causes.of_posterior(active, values, "mu", 40.0)
    assert found == "posterior collapse" and reason in reasons[0] and reasons[1] == "0 of 8 units are active"
    assert causes.of_posterior(active, {**values, "finite": 0.0}, "mu", 40.0)[0] == "non-finite values"


def test_a_reward_that_fell_is_told_from_an_entropy_that_did() -> None:
    values = {"finite": 1.0, "entries": 4.0, "conditional_entropy": 0.9, "marginal_entropy": 1.3, "reward": 0.02}
    assert causes.of_usage("policy", ["exploration"], values, "net")[1] == (
        "the reward of net has fallen clearly below its beginning, to 0.02",
    )
    low = causes.of_usage("policy", ["exploration"], {**values, "conditional_entropy": 0.01}, "net")
    assert low[1] == ("the entropy of net fell to 0.01 nats, but the reward did not rise",)


def test_of_batches_with_labels_these_are_asked_for_first() -> None:
    values = {"sphere_variance": 0.0, "rank_share": 0.1, "effective_rank": 2.0}
    for active in (["sphere_variance"], ["rank_share"]):
        plain, labelled = (causes.of_representation(active, values, "z", labelled=known) for known in (False, True))
        assert labelled[2][0].startswith("if the loss uses the labels") and labelled[2][1:] == plain[2]
