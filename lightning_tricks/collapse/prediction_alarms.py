"""What the alarms of ``PredictionCollapse`` follow: values of a check -> statistics. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_tricks.collapse.association import Evidence
from lightning_tricks.collapse.prediction_values import Targets
from lightning_tricks.detection.alarm import Alarm

_SIGNIFICANT = 2.0  # standard errors
_LITTLE = 0.02  # skill that memorised samples soon give
_FOLLOWED = 0.05  # squared correlation of predictions that are not constant
_NO_SPREAD = 3e-4  # of the limit of the variance of classes
_SHRUNK = 1e-5  # of the limit of the variance of classes: that of numbers is 1e-4 of the targets', 1 % of their std
_FEWEST = 1000  # samples of a test that may say that there is no association
_FEW_OTHERS = 5  # labels of other classes than the most frequent one, in a check
_BACKGROUND = 0.01  # balanced skill of hard answers: below it all of them are one class
_TOLD = 0.2  # skill of the answers of a reference: below it, they say too little
# Of the skill of a reference. Measured on the development scenarios: with two images in one (CutMix) training has 0.26
# of it, and all other healthy classifiers that do not rise any more have more than 0.4.
_BEHIND = 0.25
_MOVED = -0.1  # skill of answers: below it they are far more often of the rare class than they would be if unweighted
_MOSTLY_RIGHT = 0.4  # F1 of the answers above that of the best constant one
_LATE_GAIN, _LATE_GROWTH = 0.05, 10.0  # of the skill in three checks; of predictions that hardly vary yet, in eight
_GRACE = {"association": 3.0, "behind": 3.0, "skill": 2.0, "background": 2.0, "lost": 0.5}
_PLATEAU = 4.0  # times the grace: two fifths of the run


def worth(skill: float) -> float:
    """Return ``1 / (1 - skill)``, the entropy of the labels over the cross entropy: 1 for skill 0, near 0 for garbage.

    >>> worth(0.0), worth(-1.0)
    (1.0, 0.5)
    """
    return 1 / (1 - min(skill, 0.99))


def alarms(patience: int) -> dict[str, Alarm]:
    """Return the alarms by their statistics: never learned, in six ways, and lost."""
    return {
        "constant": Alarm(below=1e-9, growth=1.5, trend=8, patience=patience),
        "worse": Alarm(below=worth(-0.2), growth=1.1, patience=patience),
        "association": Alarm(below=_SIGNIFICANT, patience=patience),
        "background": Alarm(below=0.5, gain=0.01, trend=8, patience=patience),
        "skill": Alarm(below=_LITTLE, gain=0.01, trend=8, patience=patience),
        "behind": Alarm(below=_BEHIND, gain=0.04, trend=8, patience=patience),
        "lost": Alarm(of_peak=0.25, least_peak=0.2, gain=0.05, patience=patience),
    }


def grace_factor(alarm: str, *, sequences: bool = False) -> float:
    """Return by how many times the grace of an alarm is longer: learning is slower than forgetting.

    Args:
        sequences: whether the network has recurrent layers or attention, whose loss often stays where it is for long
            before it falls at once (arXiv:2207.08799, arXiv:2209.11895).
    """
    usual = _GRACE.get(alarm, 1.0)
    return max(usual, _PLATEAU) if sequences and alarm in ("association", "behind", "skill") else usual


def statistics(
    values: Mapping[str, float], targets: Targets, samples: float, *, unrelated: bool = False, classes: bool = False
) -> dict[str, float]:
    """Return what is asked of targets of this kind; a loss that is NaN or inf has no skill.

    Args:
        samples: from which the pooled association is.
        unrelated: whether the alarm of no association is on.
        classes: whether targets are class numbers.
    """
    if not math.isfinite(values.get("cross_entropy", values.get("squared_error", 0.0))):
        return dict.fromkeys(("constant", "worse", "association", "lost"), -1.0)
    skill = values.get("skill", values["correlation"] ** 2 if "correlation" in values else math.nan)
    found = {"constant": values["_spread"], **behind(values)}
    if targets.kind == "numbers":  # of targets in other units the spread may be anything, but they are followed
        found["constant"] = 1.0 if skill > _FOLLOWED else _SHRUNK * values["_spread"]
    # weights of classes in the loss move predictions away from the frequencies: that is not a lack of skill
    moved = max(skill, values.get("moved_skill", skill))
    if not math.isnan(found["constant"]):
        found |= association(values, moved, samples, unrelated=unrelated, classes=classes)
    if targets.quantiles:
        return found
    if targets.kind == "numbers":
        return {**found, "lost": skill}
    related = max(values["_score"], values["association"]) > _SIGNIFICANT
    # few labels of other classes than the frequent one say little about how much worse than the best constant it is
    error = 1 / math.sqrt(max(values.get("_minority", math.inf), 1.0))
    # answers that are mostly right are not lost, however bad their probabilities are: those for images that a step has
    # mixed are compared with the labels of one of the two, and losses that forgive wrong labels make sure of the others
    gain = values.get("macro_f1_gain", math.nan)
    kept = max(values.get("_pooled", moved), -math.inf if math.isnan(gain) else gain / 2)
    worse = worth(max(moved if related else skill, gain / 2 if gain > _MOSTLY_RIGHT else -math.inf) + error)
    # (a network begins at ln 2 or above; on its way down to the entropy of rare labels it is above that for long, and
    # of so few labels that entropy is hardly known)
    if values.get("_minority", math.inf) < _FEW_OTHERS and values.get("cross_entropy", math.inf) < math.log(2):
        worse = math.nan
    found |= {"worse": worse, "lost": kept, **behind(values, kept)}
    if targets.dense and not math.isnan(values["balanced_skill"]):
        found["background"] = 1.0 if values["balanced_skill"] > _BACKGROUND else values["soft_balanced_skill"]
    return found


def behind(values: Mapping[str, float], kept: float = -math.inf) -> dict[str, float]:
    """Return the skill of the network over that of a reference; nothing where that is not known, 1 where it is little.

    Args:
        values: of a check.
        kept: the skill of its probabilities: answers that weights of classes have moved say less than they know.

    >>> behind({"_by_network": 0.3, "_by_reference": 0.9}), behind({"_by_network": 0.0, "_by_reference": 0.1})
    ({'behind': 0.333...}, {'behind': 1.0})
    """
    network, reference = (values.get(f"_by_{name}", math.nan) for name in ("network", "reference"))
    if math.isnan(network) or math.isnan(reference):
        return {}
    # (below 0 too: a network that comes back from answers worse than the best constant one does rise)
    network = max(network, kept) if network < _MOVED else network
    return {"behind": network / reference if reference > _TOLD else 1.0}


def too_early(found: Mapping[str, float], before: Mapping[str, Sequence[float]]) -> set[str]:
    """Return which alarms conclude nothing of a network that starts late: predictions begin to vary, or skill rises.

    The first steps of a deep network, or of a long momentum, move predictions that are the same for all inputs apart by
    orders of magnitude, before any answer is another one. The answers that ``behind`` compares are those of some checks
    together, which rise later than the skill.

    Args:
        found: of ``statistics`` at this check.
        before: the same at the checks before it, by name.

    >>> too_early({"lost": 0.1, "constant": 1.0}, {"lost": [0.0, 0.01, 0.02], "constant": [1.0]})
    {'behind'}
    >>> sorted(too_early({"lost": 0.0, "constant": 1e-5}, {"lost": [0.0], "constant": [1e-9, 1e-7]}))
    ['behind', 'skill']
    >>> too_early({"lost": 0.02, "constant": 0.1}, {"lost": [0.02], "constant": [0.001]})
    set()
    """
    (skill, *_), (varied, *_) = (before[name] or [math.inf] for name in ("lost", "constant"))
    varies = found.get("constant", math.nan)
    if varies < _NO_SPREAD and varies >= _LATE_GROWTH * varied > 0:
        return {"behind", "skill"}
    return {"behind"} if found.get("lost", math.nan) >= skill + _LATE_GAIN else set()


def association(
    values: Mapping[str, float], skill: float, samples: float, *, unrelated: bool = False, classes: bool = False
) -> dict[str, float]:
    """Return what says whether there is any skill: a test on new samples, or how much there is on repeated ones.

    >>> association({"seen_before": 0.0, "association": 1.5}, 0.3, samples=2048.0)
    {'association': 1.5}
    >>> association({"seen_before": 1.0, "association": 1.5, "_lately": 1.5}, 0.3, samples=2048.0)
    {'skill': 0.3}
    """
    found, enough = {}, samples >= _FEWEST
    if Evidence().counts(values["seen_before"]):
        if not enough:
            return {}
        # rows of one sequence are not independent: outputs that hardly vary, and do not beat the best constant
        # ones, have not learnt anything however many there are
        nothing = classes and values["_spread"] < _NO_SPREAD and not values["skill"] > 0
        return {"association": min(values["association"], 0.0) if nothing else values["association"]}
    # (what was found in the first epoch may have been lost since then)
    known = enough and min(values["association"], values["_lately"]) > _SIGNIFICANT
    if unrelated:
        found["association"] = max(values["association"], _SIGNIFICANT * skill / _LITTLE)
    return {**found, "skill": 1.0 if known else skill}
