"""What is asked of each kind of assignment: the alarms of ``UsageCollapse`` and what they follow. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lightning_tricks.detection.alarm import Alarm

_ENOUGH = 32  # samples: with fewer, chance alone can leave entries out


@dataclass(frozen=True)
class Kind:
    """What is asked of a kind of assignment.

    Args:
        alarms: by the name of their statistic; their patience is that of the user times their own.
        least: share of its fair share from which an entry counts as used. Codes of rare patches are rare, and in use.
        grace: by how many times the grace is longer.
    """

    alarms: Mapping[str, Alarm]
    least: float = 0.05
    grace: float = 1.0

    def rules(self, patience: int) -> dict[str, Alarm]:
        """Return the alarms with the patience of the user."""
        return {name: replace(alarm, patience=alarm.patience * patience) for name, alarm in self.alarms.items()}


_CAPACITY = Alarm(below=0.45, gain=0.05, trend=5, patience=1)
# Codes may be rare, and one may be the background, but the others are of use: of a codebook far from the data a few
# answer for all, while more are hit now and then. Of the development scenarios' healthy codebooks none is below 0.06
# after its grace, and the lowest ones rise.
_FEW_CODES = Alarm(below=0.06, gain=0.02, trend=5, patience=2)
KINDS: dict[str, Kind] = {
    "codebook": Kind({"capacity": _CAPACITY, "others": _FEW_CODES}, least=0.01, grace=1.5),  # codes spread slowly
    "router": Kind(
        {
            "usage": Alarm(below=0.2, gain=0.02, growth=1.3, trend=5, patience=1),
            "balance": Alarm(below=0.1, gain=0.02, growth=1.3, trend=5, patience=1),
            "starved": Alarm(below=0.2, gain=0.02, growth=1.3, trend=5, patience=3),
        }
    ),
    "prototypes": Kind({"capacity": _CAPACITY, "information": Alarm(below=5e-4, growth=1.3, trend=5, patience=1)}),
    "policy": Kind(
        {
            "variety": Alarm(below=0.05, gain=0.05, growth=1.5, patience=1),
            "exploration": Alarm(of_peak=0.05, least_peak=0.2, gain=0.05, patience=1),
        }
    ),
}


def statistics(
    kind: str,
    values: Mapping[str, float],
    *,
    learned: bool | None = None,
    rewarded: bool = False,
    unlearned: bool = False,
) -> dict[str, float]:
    """Return what the alarms of a kind follow; with too few samples nothing is concluded.

    Args:
        kind: a key of ``KINDS``.
        values: of a check, as of ``usage.read_usage``.
        learned: of a policy, whether its reward has risen; None where it is too early to tell.
        unlearned: of a policy, whether its reward has fallen below the start.
        rewarded: of a policy, whether a reward is known.
    """
    names = KINDS[kind].alarms
    if not values["finite"]:
        return dict.fromkeys(names, -1.0)
    if values["_effective"] < _ENOUGH:
        return dict.fromkeys(names, math.nan)
    information = information_share(values)
    if kind == "policy":
        if unlearned and not learned:
            return {"variety": 1.0, "exploration": -1.0}
        return _of_a_policy(values, information, learned, rewarded)
    # while a router is undecided, a balancing loss moves many choices at once: it may take longer
    own = {
        "usage": max(values["usage"], values["_soft"], float(routes(values))),
        "balance": max(values["balance"], values["_soft"]),
        "starved": max(values["usage"], float(routes(values))),
        "capacity": values["capacity"],
        "others": values["_others"],
        # of logits the temperature is not known
        "information": information if values["_given"] else math.nan,
    }
    return {name: own[name] for name in names}


def _of_a_policy(
    values: Mapping[str, float], information: float, learned: bool | None, rewarded: bool
) -> dict[str, float]:
    """Return how varied actions are, and how random; both are 1, healthy, where the reward has risen."""
    if learned:
        return {"variety": 1.0, "exploration": 1.0}
    whole = math.log(max(2.0, values["entries"]))
    share = values["marginal_entropy"] / whole
    if math.isnan(information):  # sampled actions: only one that is nearly always taken is certainly a collapse
        return {"variety": 5 * share, "exploration": math.nan}
    # a rare action that is taken in its own states depends on the input, however rare it is
    dependence = information / share if share > 1e-4 else 0.0
    random = values["conditional_entropy"] / whole
    if learned is None:  # too early to tell: only its best value counts
        random = max(random, 0.1) if rewarded else math.nan
    return {"variety": max(share, dependence / 4), "exploration": random}


_ROUTED = 0.9  # bits about the input in the choice of an expert


def information_share(values: Mapping[str, float]) -> float:
    """Return ``(marginal - conditional entropy) / ln K``, the mutual information of input and entry, in [0, 1].

    NaN where assignments are whole numbers.
    """
    if "conditional_entropy" not in values or values["entries"] < 2:
        return math.nan
    return max(0.0, values["marginal_entropy"] - values["conditional_entropy"]) / math.log(values["entries"])


def routes(values: Mapping[str, float]) -> bool:
    """Whether a choice depends on the input by nearly one bit: few experts may be all that the data need.

    >>> routes({"marginal_entropy": 0.74, "conditional_entropy": 0.05}), routes({"marginal_entropy": 0.1})
    (True, False)
    """
    bits = (values["marginal_entropy"] - values.get("conditional_entropy", math.inf)) / math.log(2)
    return bits >= _ROUTED
