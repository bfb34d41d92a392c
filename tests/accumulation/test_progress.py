from __future__ import annotations

import pytest

from lightning_tricks.accumulation.open_window import MicroBatch
from lightning_tricks.accumulation.progress import WindowProgress
from lightning_tricks.accumulation.spec import AccumulationSpec


def progress_of(batches: int | dict[int, int] = 1, target: int | None = None, scaling: str = "none") -> WindowProgress:
    return WindowProgress(AccumulationSpec(batches, target, "samples", "raise", scaling, None))


def join(progress: WindowProgress, weight: float, whole: float = 0.0, updates: int = 0) -> None:
    progress.join(MicroBatch(weight, weight, whole))
    if progress.units.reference is None:
        progress.take_units(weight, world=1)
    if progress.now.batches == 1:
        progress.plan(updates)
    progress.now = progress.now.after_backward(MicroBatch(weight, weight, whole))


def test_the_weighted_sum_of_a_ragged_window_is_the_mean_of_the_big_batch() -> None:
    """With gradient = mean of the samples 0..9, of which the micro-batches hold 4, 4 and 2."""
    progress, total = progress_of(3), 0.0
    for samples in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
        join(progress, len(samples))
        total += progress.loss_factor(len(samples)) * sum(samples) / len(samples)
    assert total * progress.correction() == pytest.approx(sum(range(10)) / 10, rel=1e-12)


def test_a_window_of_a_target_size_closes_when_the_size_is_reached_and_scales_the_rate_exactly() -> None:
    progress = progress_of(target=20, scaling="linear")
    assert (progress.by_size, progress.fixed) == (True, None)
    closed = []
    for _ in range(3):
        join(progress, 8, whole=8.0)
        closed.append(progress.closes(0))
    assert closed == [False, False, True]
    assert (progress.now.planned, progress.rate_factor) == (3, 2.5)


def test_the_length_of_a_window_follows_the_updates_and_a_longer_one_is_taken_on_request() -> None:
    progress = progress_of({0: 2, 10: 4})
    assert progress.fixed is None
    for updates, enlarged, planned in [(0, 1, 2), (10, 1, 4), (10, 8, 32), (0, 3, 6)]:
        progress.enlarge(enlarged)
        progress.begin()
        join(progress, 1, updates=updates)
        assert progress.now.planned == planned, "each request is relative to what the user asked for"


def test_an_epoch_that_ends_in_the_middle_of_a_window_ends_it() -> None:
    progress = progress_of(4)
    progress.end_epoch()
    assert not progress.now.over, "nothing had begun"
    join(progress, 8)
    progress.end_epoch()
    assert progress.now.over


@pytest.mark.parametrize(("under_way", "batches"), [(False, 0), (True, 1)])
def test_gradients_that_were_thrown_away_count_for_nothing(under_way: bool, batches: int) -> None:
    progress = progress_of(4)
    join(progress, 8)
    join(progress, 8)
    progress.lose_gradients(under_way=under_way)
    assert (progress.now.planned, progress.now.batches, progress.now.weight) == (4, batches, 0)


@pytest.mark.parametrize("has_gradients", [True, False])
def test_a_run_that_is_resumed_in_the_middle_of_a_window_continues_it_if_it_has_its_gradients(
    has_gradients: bool,
) -> None:
    progress = progress_of(4, scaling="sqrt")
    join(progress, 8)
    join(progress, 6)
    state = {**progress.state_dict(with_open_window=True), "limit": None}
    resumed = progress_of(4)
    resumed.start(state)
    assert resumed.units == progress.units
    resumed.resume(lambda: has_gradients)
    assert resumed.now == (progress.now if has_gradients else progress_of(4).now)
    resumed.begin()
    resumed.resume(lambda: True)
    assert resumed.now.batches == 0, "it is taken up once"


def test_a_window_that_is_over_or_empty_or_of_several_processes_is_not_saved() -> None:
    progress = progress_of(4)
    assert progress.state_dict(with_open_window=True)["open"] is None
    join(progress, 8)
    assert progress.state_dict(with_open_window=False)["open"] is None
    progress.now = progress.now._replace(over=True)
    assert progress.state_dict(with_open_window=True)["open"] is None
