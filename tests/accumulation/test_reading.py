from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks import GradientAccumulation, TrickError
from lightning_tricks.accumulation import reading
from lightning_tricks.accumulation.reading import BatchReader


def reader(**arguments: Any) -> BatchReader:
    return BatchReader(GradientAccumulation(**arguments).spec)


LABELS = {"x": torch.zeros(3, 4), "labels": torch.tensor([[1, 2], [3, -100], [-100, -100]])}


@pytest.mark.parametrize(
    ("weight", "weighs", "samples"),
    [("samples", 3, 3), ("equal", 1, 3), ("tokens", 3, 3), (lambda batch: 2.5, 2.5, 2.5)],
)
def test_a_batch_weighs_what_its_mean_was_taken_over(weight: Any, weighs: float, samples: float) -> None:
    found = reader(weight=weight)
    assert found.weigh(LABELS) == weighs
    assert found.samples(LABELS, found.weigh(LABELS)) == samples


def test_a_batch_that_hides_its_samples_is_no_error_where_nobody_asked_for_them() -> None:
    assert reader(weight="equal").samples("text", 1) == 1
    with pytest.raises(TrickError, match="the number of samples is not known"):
        reader().weigh("text")
    with pytest.raises(TrickError, match="the number of samples is not known"):
        reader(on_oom="split").count("text")
    assert reader(on_oom="split", split_fn=lambda batch, parts: []).count("text") == 1


def test_the_parts_of_a_batch_share_its_mean_by_their_size() -> None:
    parts = reader(on_oom="split").split(LABELS, 2)
    assert [len(part["x"]) for part in parts] == [2, 1]
    for weight, shares in (("samples", [2, 1]), ("equal", [2, 1]), ("tokens", [3, 0])):
        assert [int(reader(weight=weight, on_oom="split").weigh_part(part)) for part in parts] == shares


def test_parts_of_the_users_own_function_weigh_the_same_unless_tokens_are_counted() -> None:
    own = reader(on_oom="split", split_fn=lambda batch, parts: [batch] * parts)
    assert own.split("text", 3) == ["text"] * 3 and own.weigh_part("text") == 1
    counted = reader(weight="tokens", on_oom="split", split_fn=lambda batch, parts: [batch] * parts)
    assert int(counted.weigh_part(LABELS)) == 3


def test_a_batch_of_the_form_of_the_last_one_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = reading.read_samples
    monkeypatch.setattr(reading, "read_samples", lambda *given: looks.append(1) or real(*given))
    read = reader().read
    x, y = torch.zeros(6, 3), torch.zeros(6)
    for batch in ([x, y], [x + 1, y], {"x": x}, {"x": x}, x, x):
        assert read(batch) == 6
    assert len(looks) == 3
    # another shape, another kind of container, and what may say itself how many samples it holds
    for batch, samples in (([x[:2], y[:2]], 2), ((x, y), 6), (([x], [y]), 6), (([x], [y]), 6)):
        assert read(batch) == samples
    assert len(looks) == 7
