from __future__ import annotations

import pytest

from lightning_tricks.diagnosis.data_wait import DataWait


class Clock:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        patch.setattr("lightning_tricks.diagnosis.data_wait.time.perf_counter", lambda: self.now)

    def step(self, wait: DataWait, *, waiting: float, step: float, check: float = 0.0) -> None:
        self.now += waiting
        wait.on_train_batch_start(None, None, None, 0)
        self.now += step
        wait.on_train_batch_end(None, None, None, None, 0)
        self.now += check
        wait._transfer_started(None)  # type: ignore[arg-type]


def test_what_goes_by_between_two_batches_is_waiting_and_a_check_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wait = Clock(monkeypatch), DataWait()
    wait._on_start(None, None)  # type: ignore[arg-type]
    clock.step(wait, waiting=1.0, step=3.0, check=50.0)
    clock.step(wait, waiting=2.0, step=4.0)
    assert wait.measure().known == (3.0, 10.0)
    assert wait.measure().known == (0.0, 0.0), "it is counted from the last check on"


def test_a_validation_is_not_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wait = Clock(monkeypatch), DataWait()
    wait._on_start(None, None)  # type: ignore[arg-type]
    clock.now += 100.0
    wait.go_on()
    clock.step(wait, waiting=1.0, step=1.0)
    assert wait.measure().known == (1.0, 2.0)


def test_the_share_is_of_a_check_and_seconds_add_up() -> None:
    wait = DataWait()
    assert [wait.share(1.0, 4.0), wait.share(3.0, 4.0), wait.share(0.0, 0.0)] == [0.25, 0.75, 0.0]
    assert wait.in_all == (4.0, 8.0)
