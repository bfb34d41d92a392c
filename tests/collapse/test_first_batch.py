from __future__ import annotations

import torch

from lightning_tricks.collapse.first_batch import FirstBatch

DEVICE = torch.device("cpu")


def test_it_is_sent_until_it_was_read_and_then_never_again() -> None:
    first, vector = FirstBatch(), torch.tensor([1.0, 2.0])
    assert first.appended_to(vector, average=lambda own: own) is vector
    first.note(torch.tensor([3.0, 5.0]))
    for _ in range(2):  # (a check whose values were dropped on the way is no reading)
        sent = first.appended_to(vector, average=lambda own: own / 2)
        assert sent.tolist() == [1.0, 2.0, 1.5, 2.5]
    assert first.taken_from(sent.tolist()) == ([1.0, 2.0], [1.5, 2.5])
    assert first.appended_to(vector, average=lambda own: own) is vector
    assert first.taken_from([1.0, 2.0]) == ([1.0, 2.0], None)


def test_a_resumed_run_sends_what_was_not_read_yet_and_keeps_what_was() -> None:
    first, resumed = FirstBatch(), FirstBatch()
    first.note(torch.tensor([3.0]))
    first.values = {"loss": 2.0}
    resumed.load(first.state(), DEVICE)
    assert resumed.values == {"loss": 2.0}
    assert resumed.appended_to(torch.tensor([1.0]), average=lambda own: own).tolist() == [1.0, 3.0]
    older = FirstBatch()
    older.load({}, DEVICE)
    assert older.state() == {"start": None, "at_start": {}}


def test_a_state_is_a_copy() -> None:
    first = FirstBatch()
    first.note(torch.tensor([3.0]))
    state = first.state()
    state["start"].zero_()
    state["at_start"]["loss"] = 9.0
    assert first.state()["start"].tolist() == [3.0] and first.values == {}
