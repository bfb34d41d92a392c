from __future__ import annotations

import math

import pytest

from lightning_tricks.numerics.error_parts import ErrorParts, error_parts


def test_the_parts_are_shares_of_the_loss_before_training() -> None:
    parts = error_parts(2.0, 0.5, [1.5, 0.8, 1.0])
    assert parts is not None
    assert (parts.bias, parts.variance, parts.noise_at_most) == (0.25, 0.25, 0.4)
    assert parts.bias + parts.variance == parts.last / parts.start, "together they are the error on fresh samples"


@pytest.mark.parametrize(
    ("start", "train", "validation"),
    [
        (math.nan, 1.0, []),
        (1.0, math.inf, []),
        (-1.0, -2.0, []),
        (0.0, 0.0, []),
        (1.0, 0.5, [-0.5]),
        (0.5, 8e23, [9e16]),
        (1.4, 1.6, [1.39, 1.42]),
    ],
)
def test_nothing_is_said_where_losses_do_not_tell(start: float, train: float, validation: list[float]) -> None:
    assert error_parts(start, train, validation) is None


@pytest.mark.parametrize(
    ("parts", "first", "advice"),
    [
        (ErrorParts(2.3, 0.01, 0.02, 0.02), "The task is solved", None),
        (ErrorParts(2.3, 0.01), "The task is solved", None),
        (ErrorParts(2.3, 1.5, 1.6, 1.6), "Training error (bias): 1.5, 65%", "larger network"),
        (ErrorParts(2.3, 0.05, 0.4, 1.2), "Training error (bias): 0.05, 2%", "more data or augmentation"),
        (ErrorParts(2.3, 1.5), "Training error (bias): 1.5", "larger network"),
        (ErrorParts(2.3, 0.2, 0.25, 0.25), "Training error (bias): 0.2", None),
    ],
)
def test_the_larger_part_decides_on_the_advice(parts: ErrorParts, first: str, advice: str | None) -> None:
    said = parts.sentences()
    assert said[0].startswith(first)
    assert (advice in said[-1]) if advice else not any("arXiv" in s or "JMLR" in s or "chapter" in s for s in said)


def test_label_noise_is_a_bound_and_advice_only_where_the_network_memorised() -> None:
    memorised = ErrorParts(2.3, 0.05, 1.2, 2.0).sentences()
    assert any("Label noise: at most 1.2, 52%" in s for s in memorised)
    assert "arXiv:1911.00068" in memorised[-1]
    assert "arXiv:1911.00068" not in ErrorParts(2.3, 1.1, 1.2, 1.2).sentences()[-1]


def test_beside_a_finding_the_parts_are_numbers_without_advice() -> None:
    for parts in (ErrorParts(2.3, 1.5), ErrorParts(2.3, 1.5, 1.6, 1.6), ErrorParts(2.3, 0.05, 1.2, 2.0)):
        said, bare = parts.sentences(), parts.sentences(advise=False)
        assert bare == said[: len(bare)] and len(bare) < len(said)
        assert not any("larger part" in s or "arXiv" in s for s in bare)


def test_a_task_is_not_solved_while_validation_is_far_off() -> None:
    assert not ErrorParts(2.3, 0.01, 0.5, 0.5).solved
    assert ErrorParts(2.3, 0.01).solved
