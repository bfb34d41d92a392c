from __future__ import annotations

import torch

from lightning_tricks.gradients.nonfinite import NonFinite, NonFiniteWatch, read_report
from lightning_tricks.publishing.publish import Publisher


def test_a_watch_tells_attempts_layers_and_loss_whatever_its_limit() -> None:
    for limit in (1, 3, 100):
        watch = NonFiniteWatch(["a", "b", "c"], limit)
        for attempt in range(1, 8):
            norms = torch.ones(3)
            if attempt in (3, 6):
                norms[1] = float("nan")
            if attempt == 6:
                norms[2] = float("inf")
            losses = [torch.tensor(1.0), torch.tensor(float("inf") if attempt == 6 else 2.0)]
            watch.note(attempt, norms, losses)
        vector, attempts = watch.report()
        found = read_report(watch.names, vector.tolist(), attempts)
        assert found == NonFinite((3, 6), {"b": 2, "c": 1}, True)
        assert watch.report()[1] == ()


def test_nothing_bad_is_nothing_to_tell() -> None:
    watch = NonFiniteWatch(["a"])
    assert watch.at(1, torch.ones(1), []) is None
    found = watch.at(2, torch.tensor([float("nan")]), [])
    assert found is not None
    assert "The loss was not looked at there" in str(found)


def test_many_layers_are_cut_short() -> None:
    text = str(NonFinite((1,), {f"layer{i}": 1 for i in range(20)}, False))
    assert "and 12 more" in text
    assert "layer8" not in text


def test_attempts_that_the_host_knows_to_be_finite_are_counted_as_good_and_not_kept() -> None:
    publisher = Publisher(lambda: [])
    watch, told = NonFiniteWatch(["a"]), list[NonFinite]()
    assert watch.send(publisher, 0, told.append) is None, "there was no attempt"
    watch.note_finite()
    assert float(watch.send(publisher, 0, told.append) or 0) == 0.0
    assert not publisher.holds(0), "nothing has to travel"
    watch.note_finite()
    watch.note(2, torch.tensor([float("nan")]), [])
    count = watch.send(publisher, 1, told.append)
    publisher.flush()
    assert count is not None and float(count) == 1.0
    assert told == [NonFinite((2,), {"a": 1}, None)]
