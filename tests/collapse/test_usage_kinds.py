from __future__ import annotations

import math

import pytest
import torch

from lightning_tricks.collapse import usage
from lightning_tricks.collapse.usage_kinds import KINDS, statistics


def values(probabilities: torch.Tensor, kind: str) -> dict[str, float]:
    """Return the values of rows of probabilities."""
    sums: dict[str, torch.Tensor] = {}
    usage.add_assignments(sums, probabilities)
    sums["effective"] = torch.tensor(float(len(probabilities)))
    return usage.read_usage(usage.measured_usage(sums, KINDS[kind].least).tolist())[0]


def one_hot(entries: int, of: int = 16, n: int = 512) -> torch.Tensor:
    return torch.eye(of)[torch.arange(n) % entries]


def below(kind: str, found: dict[str, float]) -> set[str]:
    rules = KINDS[kind].rules(1)
    return {name for name, value in found.items() if value < rules[name].limit(rules[name].init())}


@pytest.mark.parametrize("kind", ["codebook", "router", "prototypes"])
def test_one_entry_is_below_the_limits_and_all_of_them_are_not(kind: str) -> None:
    few = statistics(kind, values(one_hot(1), kind))
    assert below(kind, few) == KINDS[kind].alarms.keys() - {"others"}  # (of which there are none)
    assert not below(kind, statistics(kind, values(one_hot(16), kind)))


def drawn(shares: torch.Tensor) -> torch.Tensor:
    """Rows that are certain of an entry, which is drawn by its share."""
    choices = torch.multinomial(shares, 1024, replacement=True, generator=torch.Generator().manual_seed(0))
    return torch.eye(len(shares))[choices]


def test_few_codes_for_nearly_everything_are_a_collapse_however_many_are_hit_now_and_then() -> None:
    often = torch.tensor([0.75, 0.2])
    rest = torch.where(torch.arange(62) < 20, 0.05 / 20, 0.0)
    found = statistics("codebook", values(drawn(torch.cat([often, rest])), "codebook"))
    assert found["capacity"] > 0.45 and below("codebook", found) == {"others"}
    eight = torch.where(torch.arange(64) < 8, 0.12, 0.04 / 56)
    assert not below("codebook", statistics("codebook", values(drawn(eight), "codebook")))


@pytest.mark.parametrize("background", [0.0, 0.5, 0.95])
def test_codes_that_are_used_as_words_are_by_zipf_are_healthy(background: float) -> None:
    words = 1 / (1 + torch.arange(511.0))
    shares = torch.cat([torch.tensor([background]), (1 - background) * words / words.sum()])
    found = statistics("codebook", values(drawn(shares), "codebook"))
    assert not below("codebook", found) and not found["others"] < 0.15


def test_prototypes_that_are_equally_likely_for_all_inputs_carry_no_information() -> None:
    equal = torch.full((512, 16), 1 / 16)
    assert statistics("prototypes", values(equal, "prototypes"))["information"] < 5e-4


def test_of_logits_the_information_is_not_concluded() -> None:
    found = statistics("prototypes", values(10 * one_hot(16), "prototypes"))
    assert math.isnan(found["information"])


@pytest.mark.parametrize("kind", list(KINDS))
def test_numbers_that_are_not_finite_are_worth_nothing_and_few_samples_say_nothing(kind: str) -> None:
    good = values(one_hot(16), kind)
    assert set(statistics(kind, {**good, "finite": 0.0}).values()) == {-1.0}
    found = statistics(kind, {**good, "_effective": 31.0})
    assert set(found) == set(KINDS[kind].alarms) and all(math.isnan(v) for v in found.values())


def test_a_policy_of_one_action_is_healthy_only_where_its_reward_has_risen() -> None:
    one = values(one_hot(1), "policy")
    assert statistics("policy", one, learned=True, rewarded=True) == {"variety": 1.0, "exploration": 1.0}
    found = statistics("policy", one, learned=False, rewarded=True)
    assert "variety" in below("policy", found) and found["exploration"] == pytest.approx(0.0, abs=1e-5)


def test_a_policy_that_takes_its_own_action_in_each_state_is_varied() -> None:
    assert statistics("policy", values(one_hot(16), "policy"))["variety"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("learned", "rewarded", "wanted"), [(None, True, 0.1), (False, True, 0.0)])
def test_too_early_only_the_best_exploration_counts(learned: bool | None, rewarded: bool, wanted: float) -> None:
    found = statistics("policy", values(one_hot(16), "policy"), learned=learned, rewarded=rewarded)
    assert found["exploration"] == pytest.approx(wanted, abs=1e-5)


def test_without_a_reward_exploration_is_not_judged() -> None:
    assert math.isnan(statistics("policy", values(one_hot(16), "policy"))["exploration"])


def test_patience_is_that_of_the_user_times_that_of_the_alarm() -> None:
    assert {n: a.patience for n, a in KINDS["router"].rules(2).items()} == {"usage": 2, "balance": 2, "starved": 6}
    assert [kind.grace for kind in KINDS.values()] == [1.5, 1.0, 1.0, 1.0]
