from __future__ import annotations

import pytest

from lightning_tricks.diagnosis.batch_in_hand import BatchInHand


@pytest.mark.parametrize("end", ["_transfer_started", "_cleanup"])
def test_the_batch_and_its_outputs_are_known_until_the_step_or_the_fit_ends(end: str) -> None:
    hand = BatchInHand()
    hand.on_train_batch_start(None, None, "batch", 0)
    assert (hand.batch, hand.outputs) == ("batch", None)
    hand.on_train_batch_end(None, None, "outputs", "batch", 0)
    assert (hand.batch, hand.outputs) == ("batch", "outputs")
    getattr(hand, end)(None)
    assert (hand.batch, hand.outputs) == (None, None)
