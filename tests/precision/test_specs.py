from __future__ import annotations

from typing import Any

import pytest

from lightning_tricks.precision.specs import DoctorSpec, IslandsSpec


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: DoctorSpec(every_n_steps=0), ValueError, r"PrecisionDoctor\(every_n_steps=0\).*whole number >= 1"),
        (lambda: DoctorSpec(every_n_steps=1.5), TypeError, "whole number >= 1"),  # type: ignore[arg-type]
        (lambda: DoctorSpec(modules=[]), ValueError, r"PrecisionDoctor\(modules=\[\]\).*at least one"),
        (lambda: IslandsSpec("head"), TypeError, r"FP32Islands\(modules='head'\).*list of names"),  # type: ignore[arg-type]
        (lambda: IslandsSpec(["head", ""]), TypeError, "list of names or globs"),
    ],
)
def test_bad_arguments_are_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_the_users_list_is_copied() -> None:
    given = ["head"]
    specs = DoctorSpec(modules=given), IslandsSpec(given)
    given.append("body")
    assert [spec.modules for spec in specs] == [["head"], ["head"]]
    assert DoctorSpec() == DoctorSpec(None, None)
