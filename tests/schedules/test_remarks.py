from __future__ import annotations

import pytest
import torch

from lightning_tricks.schedules.course import Course
from lightning_tricks.schedules.curves import Constant, Decay, Linear
from lightning_tricks.schedules.plan import Track
from lightning_tricks.schedules.remarks import overrun, overruns, shortfall, two_decays
from lightning_tricks.schedules.run_curve import Curve


def track(planned: int | None, total: int | None, decay: Decay | None = None, warmup: int = 0) -> Track:
    curve = Curve(decay or Linear(), warmup, "linear", 0.0, 0, 0.0, total)
    return Track(Course(planned, total, total or 0), (curve,))


@pytest.mark.parametrize(("attempted", "said"), [(100, False), (101, False), (102, False), (103, True), (500, True)])
def test_a_run_that_goes_on_after_its_curve_is_told_after_two_percent(attempted: int, said: bool) -> None:
    assert (overrun(track(100, 100), attempted) is not None) == said


def test_it_says_whose_length_it_was_and_where_the_rate_stays() -> None:
    forecast = overrun(track(100, 100), 200, " of optimizer 1")
    assert (
        forecast is not None
        and "after the 100 updates of optimizer 1 that was forecast: the rate stays at 0%" in forecast
    )
    given = overrun(track(None, 100), 200)
    assert given is not None and "that total= says" in given
    assert overrun(track(None, 100, Constant()), 200) is None, "a rate that still learns may be meant"
    assert overrun(track(None, None, Constant()), 200) is None, "a curve without an end"


def test_a_curve_that_did_not_reach_its_end_is_told_and_one_that_nearly_did_is_not() -> None:
    text = shortfall(track(100, 100), 60.0, 60, timed=False)
    assert (
        text is not None and "ended at update 60 of 100, at 40% of the base rate instead of 0%. Pass total=60" in text
    )
    timed = shortfall(track(100, 100), 60.0, 60, timed=True)
    assert timed is not None and "ended before max_time" in timed
    assert shortfall(track(100, 100), 98.0, 98, timed=False) is None
    assert shortfall(track(1000, 1000), 985.0, 985, timed=False) is None, "within 2 % of the base rate"
    assert shortfall(track(None, None), 60.0, 60, timed=False) is None
    flat = track(100, 100, Constant(), warmup=50)
    assert shortfall(flat, 60.0, 60, timed=False) is None and shortfall(flat, 20.0, 20, timed=False) is not None


def test_of_several_optimizers_each_is_named_and_a_single_one_is_not() -> None:
    one, two = overruns([track(100, 100), track(100, 100)], [100, 500])
    assert one is None and two is not None and "updates of optimizer 1 that" in two
    (alone,) = overruns([track(100, 100)], [500])
    assert alone is not None and "of optimizer" not in alone


def test_a_decay_beside_an_optimizer_that_averages_weights_is_told_and_a_constant_rate_is_not() -> None:
    class SGDScheduleFree(torch.optim.SGD):
        """Named as in the package of that optimizer."""

        def train(self) -> None: ...

        def eval(self) -> None: ...

    free = SGDScheduleFree([torch.zeros(1)], lr=0.1)
    text = two_decays(Linear(), free)
    assert text is not None and text.startswith("SGDScheduleFree is schedule-free")
    assert two_decays(Constant(), free) is None
    assert two_decays(Linear(), torch.optim.SGD([torch.zeros(1)], lr=0.1)) is None
