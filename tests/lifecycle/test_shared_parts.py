"""What the tricks of one run have in common."""

from __future__ import annotations

from lightning_tricks.lifecycle.shared_parts import SharedParts


def test_a_part_is_shared_by_its_class_until_the_run_closes() -> None:
    common = SharedParts()
    assert common.shared(dict) is None
    part = common.share({"a": 1})
    assert common.shared(dict) is part and common.shared(list) is None
    common.close()
    assert common.shared(dict) is None


def test_what_was_told_stays_told_when_the_run_closes() -> None:
    common = SharedParts()
    assert [common.first_to_say("a"), common.first_to_say("b"), common.first_to_say("a")] == [True, True, False]
    common.close()
    assert not common.first_to_say("a")
