from __future__ import annotations

from lightning_tricks.detection.sampler import Sampler


def watched(sampler: Sampler, batches: int, count: int = 64, start: int = 0) -> tuple[list[int], list[int]]:
    """Play batches of one update each; return which were watched and after which there was a check."""
    seen, checks = [], []
    for i in range(start, start + batches):
        sampler.begin_batch(i)
        if sampler.armed:
            seen.append(i)
        sampler.update_comes(i, i + 1)
        sampler.armed = False
        if sampler.watched:
            sampler.gathered(count, i + 1)
        if sampler.due():
            checks.append(i)
            sampler.checked()
    return seen, checks


def test_the_first_batch_and_the_last_ones_before_each_check_are_watched() -> None:
    sampler = Sampler(10, samples=128)
    sampler.start(10, 0)
    seen, checks = watched(sampler, 30)
    assert checks == [9, 19, 29]
    assert seen == [0, 8, 9, 18, 19, 28, 29], "two batches of 64 make 128"


def test_a_large_batch_needs_no_other_and_a_small_one_needs_all() -> None:
    large, small = Sampler(5, 512), Sampler(5, 512)
    large.start(5, 0)
    small.start(5, 0)
    assert watched(large, 10, count=512)[0] == [0, 4, 9]
    assert watched(small, 10, count=8)[0] == list(range(10))


def test_after_a_resume_checks_fall_on_the_same_updates() -> None:
    sampler = Sampler(10, 64)
    sampler.start(10, 7)
    assert watched(sampler, 20, start=7)[1] == [9, 19]


def test_a_check_says_how_many_updates_there_were_since_the_last() -> None:
    sampler = Sampler(4, 1)
    sampler.update_comes(10, 9)
    sampler.samples, sampler.waited = 5, 2
    assert sampler.checked() == 9 and (sampler.samples, sampler.waited) == (0, 0)
    sampler.update_comes(20, 12)
    assert sampler.checked() == 3
