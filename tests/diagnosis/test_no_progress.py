"""Trainings that stand still, and healthy ones that look like them."""

from __future__ import annotations

import math
from typing import Any

import torch

from lightning_tricks.diagnosis.loss_curve import Check
from lightning_tricks.diagnosis.no_progress import (
    at_floor,
    never_falls,
    never_moves,
    never_warms_up,
    ran_out,
    shrinking,
)


def curve(*medians: float, **more: Any) -> list[Check]:
    """Checks of ten losses each, every ten steps."""
    return [Check(10 * i + 10, m, m, losses=10, **more) for i, m in enumerate(medians)]


def test_a_rate_that_is_gone_early_is_told_from_schedules_that_end_or_begin_low() -> None:
    def rates(*values: float) -> list[Check]:
        return [Check(10 * i + 10, 2.3, 2.3, rate=r, ratio=0.1 * r) for i, r in enumerate(values)]

    steps = torch.arange(100) / 100
    cosine = (0.5 + 0.5 * torch.cos(math.pi * steps)).tolist()
    restarts = (0.5 + 0.5 * torch.cos(math.pi * (5 * steps % 1))).tolist()
    rise = [10 ** (-8 + 0.4 * i) for i in range(20)]
    for schedule in (cosine, restarts, rise, [0.1] * 100, (0.97 ** (100 * steps)).tolist()):
        bad = [ran_out(rates(*schedule[:n]), 1000) for n in range(1, len(schedule) + 1)]
        assert not any(a and b and c for a, b, c in zip(bad, bad[1:], bad[2:], strict=False))
    assert ran_out(rates(0.1, 0.01, 1e-3, 1e-6, 1e-9), 1000)
    assert ran_out([c._replace(ratio=1e-9, rate=1e-8) for c in rates(0.1, 0.1, 0.1)], 1000), "before the first check"
    resting = [
        c._replace(ratio=1e-9, fixed=loss) for c, loss in zip(rates(0.1, 0.1, 0.1), (2.0, 1.8, 1.6), strict=True)
    ]
    assert not ran_out(resting, 1000), "most weights rest, as those of experts that are not chosen, and others learn"
    assert ran_out([c._replace(fixed=2.0) for c in resting], 1000)
    assert not ran_out(rates(*[math.nan] * 5), 1000) and not ran_out(rates(0.1, 1e-9), 0)


def test_no_gradients_at_the_floor_of_the_loss_are_a_success() -> None:
    assert at_floor(0.2, curve(0.1, 0.02, 0.0)), "every triplet keeps its margin"
    assert at_floor(0.2, curve(0.0)), "already before training"
    assert at_floor(1.0, curve(0.5, 0.3, 0.3)), "a floor that is not 0"
    assert not at_floor(0.2, curve(0.2, 0.2)), "all embeddings are the same: the loss is the margin"
    assert not at_floor(1.0, curve(0.4, 0.9)) and not at_floor(1.0, [])


def test_weights_that_shrink_to_nothing_are_told_from_an_equilibrium() -> None:
    def weights(*shares: float, loss: float = 2.3) -> list[Check]:
        return [Check(i, loss, loss, weights=w) for i, w in enumerate(shares)]

    assert shrinking(2.3, weights(*(0.8**i for i in range(12))))
    assert shrinking(2.3, weights(*([1.0] + [1e-4] * 12))), "they are gone, and fall no more"
    assert not shrinking(2.3, weights(*(max(0.2, 0.8**i) for i in range(30)))), (
        "an equilibrium, as of normalised layers"
    )
    assert not shrinking(2.3, weights(*(0.8**i for i in range(12)), loss=0.3)), "learned: a sparse network"
    better = [Check(i, 2.3 - 0.1 * i, 2.3 - 0.1 * i, weights=0.8**i) for i in range(12)]
    assert not shrinking(2.3, better), "the loss gets better"
    assert not shrinking(2.3, weights(*(0.9**i for i in range(6)))), "not yet by much"


def test_weights_that_a_whole_run_changes_by_less_than_a_hundredth_never_move() -> None:
    still = [Check(10 * i + 10, 0.7, 0.7, rate=2e-8, ratio=4e-7, fixed=0.7) for i in range(8)]
    assert never_moves(0.7, still, 1000)
    assert not never_moves(0.7, still[:7], 1000), "too early"
    assert not never_moves(0.7, still, 0), "nobody knows how long it will train"
    assert not never_moves(0.7, still, 10**6), "a long run moves them after all"
    assert not never_moves(0.7, [c._replace(fixed=0.7 - 0.01 * i) for i, c in enumerate(still)], 1000), "it learns"
    warm = [c._replace(rate=1e-8 * (i + 1)) for i, c in enumerate(still)]
    assert not never_moves(0.7, warm, 1000), "the rate rises"
    assert not never_moves(0.7, still, 1000, base_rate=1e-3), "a warm-up whose rate is renewed once in an epoch"
    assert never_moves(0.7, still, 1000, base_rate=2e-8), "a schedule, whose rate is too low"
    unknown = [c._replace(fixed=math.nan) for c in still]
    assert never_moves(0.7, unknown, 1000)
    assert not never_moves(0.7, [*unknown[:-1], unknown[-1]._replace(median=0.6)], 1000)


def test_a_warm_up_that_is_longer_than_the_run_never_ends() -> None:
    def rising(n: int, step: float = 1e-6) -> list[Check]:
        return [Check(10 * i + 10, 4.0, 4.0, rate=step * (i + 1)) for i in range(n)]

    assert never_warms_up(rising(45), 1e-2, 1000)
    assert not never_warms_up(rising(39), 1e-2, 1000), "the first 40 % of a run"
    assert not never_warms_up(rising(45, 1e-4), 1e-2, 1000), "it gets there"
    assert not never_warms_up(rising(45), math.nan, 1000) and not never_warms_up(rising(45), 1e-2, 0)
    falling = [*rising(45), Check(460, 4.0, 4.0, rate=1e-7)]
    assert not never_warms_up(falling, 1e-2, 1000), "a decay"


def test_weights_that_a_run_moves_by_a_fiftieth_are_still_only_where_the_loss_is() -> None:
    def course(falls: float, n: int = 10, ratio: float = 2e-5) -> list[Check]:
        """The loss on the first batch falls by that share in the whole run of 1,000 updates, evenly."""
        loss = [4.0 * (1 - falls * (20 * i + 20) / 1000) for i in range(n)]
        return [Check(20 * i + 20, x, x, rate=1e-5, ratio=ratio, fixed=x) for i, x in enumerate(loss)]

    assert never_moves(4.0, course(0.0), 1000) and never_moves(4.0, course(0.016), 1000)
    assert not never_moves(4.0, course(0.05), 1000), "fine-tuning: small updates, and something is learned"
    assert not never_moves(4.0, course(0.05, n=50), 1000), "also at the end"
    assert not never_moves(4.0, course(0.0, ratio=1e-4), 1000), "the weights move by a tenth: a plateau"
    unknown = [c._replace(fixed=math.nan) for c in course(0.0)]
    assert not never_moves(4.0, unknown, 1000), "the losses of batches are too noisy to tell"


def test_a_loss_that_never_falls_is_told_in_the_last_part_of_a_run_only() -> None:
    def flat(n: int, loss: float = 4.844, **known: float) -> list[Check]:
        return [Check(10 * i + 10, loss, loss, **{"ratio": 0.01, "fixed": loss, **known}) for i in range(n)]

    assert never_falls(4.844, flat(60), 1000)
    assert not never_falls(4.844, flat(59), 1000), "a plateau may end"
    assert not never_falls(4.844, flat(60), 0), "nobody knows how long it will train"
    assert not never_falls(4.844, [*flat(8), Check(600, 4.844, 4.844)], 1000), "too few checks"
    assert not never_falls(4.844, [c._replace(step=i + 1) for i, c in enumerate(flat(60))], 60), "too few updates"
    assert never_falls(4.844, flat(60, fixed=math.nan), 1000), "the loss on the first batch is not known"
    dip = [*flat(30), Check(305, 4.844, 4.7, fixed=4.844), *flat(60)[31:]]
    assert not never_falls(4.844, dip, 1000), "it fell once"
    learned = [*flat(30), Check(305, 4.844, 4.844, fixed=4.7), *flat(60)[31:]]
    assert not never_falls(4.844, learned, 1000), "data got harder, and the first batch is known better"
    assert never_falls(4.844, flat(60, 5.3), 1000), "noise, or a little worse than at first"
    assert not never_falls(0.0, flat(60, 0.0), 1000) and not never_falls(-0.1, flat(60, -0.1), 1000), "a policy"


def test_a_loss_that_rises_at_first_and_falls_from_there_is_not_where_it_began() -> None:
    """As of DINO, whose teacher answers the same for all at first: the easiest task of the whole run."""

    def checks(*losses: float) -> list[Check]:
        return [Check(10 * i + 10, x, x, ratio=0.005, fixed=x) for i, x in enumerate(losses)]

    taught = checks(3.0, 3.7, *[4.16 - 0.01 * i for i in range(60)])
    assert not any(never_falls(2.633, taught[:n], 700) for n in range(1, len(taught)))
    assert never_falls(2.633, checks(*[2.7 + 0.1 * (i % 9) for i in range(60)]), 700), "losses that scatter that far"


def test_updates_that_a_momentum_still_builds_up_say_nothing_yet() -> None:
    def built_up(momentum: float, rate: float = 1e-4, every: int = 1) -> list[Check]:
        """Updates of a constant gradient, which are ``1 / (1 - momentum)`` times as large in the end."""
        sizes = [rate * (1 - momentum ** (every * (i + 1))) / (1 - momentum) for i in range(60)]
        return [Check(every * i + 1, 0.69, 0.69, rate=rate, ratio=0.03 * s, fixed=0.69) for i, s in enumerate(sizes)]

    told = [any(never_moves(0.69, built_up(m)[:n], 600) for n in range(8, 60)) for m in (0.99, 0.0)]
    assert told == [False, True]
    assert any(never_moves(0.69, built_up(0.99, 1e-7)[:n], 600) for n in range(60)), "once they hardly grow any more"
    warming = [c._replace(rate=c.rate * (i + 1), ratio=c.ratio * (i + 1)) for i, c in enumerate(built_up(0.0, 1e-7))]
    held = [*warming[:20], *(warming[20]._replace(step=c.step) for c in warming[21:])]
    assert never_moves(0.69, held, 600), "larger updates by a larger rate are no momentum"
