from __future__ import annotations

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


def test_of_batches_with_labels_these_are_asked_for_first() -> None:
    values = {"sphere_variance": 0.0, "rank_share": 0.1, "effective_rank": 2.0}
    for active in (["sphere_variance"], ["rank_share"]):
        plain, labelled = (causes.of_representation(active, values, "z", labelled=known) for known in (False, True))
        assert labelled[2][0].startswith("if the loss uses the labels") and labelled[2][1:] == plain[2]
