"""How many entries of a codebook, experts of a router, prototypes or actions are in use. From counts; no Lightning.

Assignments are whole numbers ``[...]``, or probabilities or logits ``[..., K]``. Of these the largest entry of each row
is counted: it does not depend on a temperature, which is often applied outside of the module. Shapes below: rows
``[n, K]``, counts ``[K]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_tricks.collapse.assignments import as_probabilities, votes
from lightning_tricks.collapse.prediction import entropy, shares

_FEWEST_OTHERS = 32  # samples
_FEWEST_ENTRIES = 8  # of few, a handful is not little
SHOWN = 256  # points of the curve that is drawn

_APPROXIMATE_FROM = 50.0  # samples for each entry


def perplexity(counts: Tensor) -> Tensor:
    """Return the effective number of entries in use, ``exp(H(shares))``, in [1, K], 0-d.

    >>> perplexity(torch.tensor([5.0, 5.0, 0.0]))
    tensor(2.)
    """
    return entropy(shares(counts)).exp()


def unused_share(counts: Tensor) -> Tensor:
    """Return the share of entries that never occur, in [0, 1], 0-d.

    >>> unused_share(torch.tensor([9.0, 1.0, 0.0, 0.0]))
    tensor(0.5000, dtype=torch.float64)
    """
    return (counts <= 0).double().mean()


def expected_used(samples: float, entries: int) -> float:
    """Return how many entries so many samples use on average when all are equally likely, ``K (1 - (1 - 1/K)^n)``.

    Few samples cannot show a large codebook in use: this is what they can show.

    >>> round(expected_used(512, 1024), 1), expected_used(512, 2)
    (403.1, 2.0)
    """
    return float(entries) if entries < 2 else -entries * math.expm1(samples * math.log1p(-1 / entries))


def expected_perplexity(samples: int, entries: int) -> float:
    """Return the perplexity that so many samples show when all entries are equally likely: ``exp(E[H])``.

    ``E[H] = ln n - (K / n) sum_c P(c) c ln c`` with ``c`` from the binomial distribution of one entry's count; with
    many samples for each entry ``ln K - (K - 1) / 2n`` (Miller, 1955).

    >>> round(expected_perplexity(10**6, 8), 3), round(expected_perplexity(64, 8), 2)
    (8.0, 7.56)
    """
    if entries < 2 or samples < 1:
        return 1.0
    if samples > _APPROXIMATE_FROM * entries:
        return math.exp(math.log(entries) - (entries - 1) / (2 * samples))
    mean = samples / entries
    top = min(samples, math.ceil(mean + 12 * math.sqrt(mean) + 30))
    c = torch.arange(1, top + 1, dtype=torch.float64)
    n = torch.tensor(float(samples), dtype=torch.float64)
    ways = torch.lgamma(n + 1) - torch.lgamma(c + 1) - torch.lgamma(n - c + 1)
    chance = (ways - c * math.log(entries) + (n - c) * math.log1p(-1 / entries)).exp()
    return math.exp(math.log(samples) - float((chance * c * c.log()).sum()) / mean)


def live_entries(counts: Tensor, least: float) -> Tensor:
    """Return how many entries have at least the share ``least / K``, or may have: two standard errors are allowed, 0-d.

    Args:
        counts: ``[K]``.
        least: of the share that each entry would have if all were used equally, in [0, 1].
    """
    enough = counts.sum() * least / len(counts)
    return ((counts > 0) & (counts + 2 * (counts + 1).sqrt() >= enough)).sum()


def portion(found: float, possible: float) -> float:
    """Return where a number of entries lies between one, which is 0, and what is possible, which is 1.

    >>> portion(1.0, 8.0), portion(4.5, 8.0), portion(1.0, 1.0)
    (0.0, 0.5, 0.0)
    """
    return min(1.0, max(0.0, (found - 1) / (possible - 1))) if possible > 1 else 0.0


def capacity_share(found: float, possible: float) -> float:
    """Return which share of the attainable information a number of entries can carry, ``ln(found) / ln(possible)``.

    >>> capacity_share(1.0, 64.0), round(capacity_share(8.0, 64.0), 3), capacity_share(1.0, 1.0)
    (0.0, 0.5, 0.0)
    """
    return min(1.0, math.log(found) / math.log(possible)) if possible > 1 and found > 1 else 0.0


def balance_of_others(perplexity: float, top: float, samples: int, entries: int) -> float:
    """Return the balance of all entries but the commonest one: 0 for one more, 1 where they are equally likely.

    NaN where too few samples, or entries, are left.

    Args:
        top: share of the commonest one.
        samples: the shares are of.

    >>> round(balance_of_others(8.0, 1 / 8, 10**6, 8), 3), balance_of_others(2.0, 0.5, 512, 8)
    (1.0, 0.0)
    """
    left = round(samples * (1 - top))
    if left < _FEWEST_OTHERS or entries < _FEWEST_ENTRIES or not perplexity > 0:
        return math.nan
    rest = (math.log(perplexity) + top * math.log(top)) / (1 - top) + math.log(1 - top)
    return portion(math.exp(rest), expected_perplexity(left, entries - 1))


USAGE: tuple[str, ...] = (
    "entries",
    "samples",
    "effective",
    "finite",
    "given",
    "perplexity",
    "unused_share",
    "live",
    "top_share",
    "top_entry",
    "marginal_entropy",
    "conditional_entropy",
)


def add_assignments(sums: dict[str, Tensor], rows: Tensor) -> None:
    """Add probabilities or logits ``[n, K]`` to the sums, in place.

    Rows that are all ``-inf``, which is how padding is masked, are left out; rows with NaN or inf are counted as such.
    """
    rows = rows.float()
    top = rows.amax(1)
    masked = top == -math.inf
    sound = (top > -math.inf) & (top < math.inf)  # (NaN is neither)
    weight = sound.float()
    # an expected value of 1 / K keeps rows that do not count from deciding what the others are
    clean = torch.where(sound[:, None], rows, 1 / rows.shape[1])
    p, normal = as_probabilities(clean)
    new = {
        "votes": weight @ votes(clean),
        "probability": weight @ p,
        "entropy": weight @ entropy(p),
        "rows": weight.sum(),
        "broken": (~sound & ~masked).float().sum(),
        "given": weight.sum() * normal,
    }
    for name, value in new.items():
        sums[name] = sums[name] + value if name in sums else value


def measured_usage(sums: dict[str, Tensor], least: float) -> Tensor:
    """Return the values of ``USAGE``, and at most ``SHOWN`` of the shares in falling order, in one vector.

    Args:
        sums: of ``add_assignments``; or ``votes`` alone, counts of whole numbers; and ``effective``, 0-d.
        least: as in ``live_entries``.
    """
    s = {name: value.double() for name, value in sums.items()}
    counts = s["votes"]
    share = shares(counts)
    used = entropy(share)
    nothing = torch.zeros_like(used)
    if "probability" in s:
        n = s["rows"].clamp(min=1)
        marginal, conditional = entropy(s["probability"] / n), s["entropy"] / n
        finite, given = (s["broken"] == 0).double(), (s["given"] == s["rows"]).double()
    else:
        marginal, conditional, finite, given = used, torch.full_like(used, math.nan), nothing + 1, nothing
    scalars = [
        nothing + len(counts),
        counts.sum(),
        torch.minimum(s["effective"], counts.sum()),
        finite,
        given,
        used.exp(),
        unused_share(counts),
        live_entries(counts, least).double(),
        share.max(),
        share.argmax().double(),
        marginal,
        conditional,
    ]
    ordered = share.sort(descending=True).values
    places = torch.linspace(0, len(ordered) - 1, min(SHOWN, len(ordered)), device=ordered.device).round().long()
    return torch.cat([torch.stack(scalars), ordered[places]])


def read_usage(vector: Sequence[float]) -> tuple[dict[str, float], list[float]]:
    """Return the values by name with those that follow from them, and the shares, from what ``measured_usage`` sent.

    ``usage`` and ``balance`` compare the number of entries in use, and the perplexity, with what so many samples show
    when all entries are equally likely: 0 for one entry, 1 for all. ``capacity`` compares the logarithms: 50 of 512
    codes are few, but carry more than half of the information.
    """
    values = dict(zip(USAGE, vector, strict=False))
    live, effective, given = values.pop("live"), values.pop("effective"), values.pop("given")
    known = math.isfinite(effective) and effective >= 1
    entries, samples = max(1, round(values["entries"])), round(effective) if known else 0
    values["perplexity_share"] = values["perplexity"] / entries
    possible = expected_used(samples, entries)
    values["usage"] = portion(live, possible) if known else math.nan
    soft = math.exp(values["marginal_entropy"]) if math.isfinite(values["conditional_entropy"]) else 1.0
    values["_soft"] = portion(soft, entries)
    values["capacity"] = capacity_share(live, possible) if known else math.nan
    values["balance"] = portion(values["perplexity"], expected_perplexity(samples, entries)) if known else math.nan
    values["_others"] = balance_of_others(values["perplexity"], values["top_share"], samples, entries)
    if math.isnan(values["conditional_entropy"]):
        del values["conditional_entropy"]
    values["_effective"], values["_given"] = float(samples), given
    return values, list(vector[len(USAGE) :])
