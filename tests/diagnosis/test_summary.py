from __future__ import annotations

import math

from lightning_tricks.detection.causes import Hint
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.diagnosis.summary import numbers_of, told_of
from lightning_tricks.numerics.error_parts import error_parts


def test_findings_are_told_or_that_there_is_none() -> None:
    finding = Finding(Hint.PLATEAU, "flat", 0.7, "lower the rate", 5)
    assert told_of([finding], 10) == [f"TrainingDoctor: {finding}"]
    assert told_of([], 10) == ["TrainingDoctor: nothing wrong was found in 10 updates"]


def test_numbers_of_validation_are_logged_where_there_was_one() -> None:
    parts = error_parts(2.3, 0.5, [1.0, 0.75, 0.8])
    assert parts is not None
    numbers = numbers_of(parts)
    assert (numbers["initial"], numbers["training"]) == (2.3, 0.5)
    assert (numbers["validation"], numbers["validation_best"]) == (parts.last, parts.best)
    alone = error_parts(2.3, 0.5, [])
    assert alone is not None and not math.isfinite(alone.last)
    assert set(numbers_of(alone)) == {"initial", "training"}
