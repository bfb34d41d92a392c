from __future__ import annotations

import math
import random

import pytest

from lightning_tricks.publishing.events import Series
from lightning_tricks.publishing.log_keys import is_own_loss
from lightning_tricks.report.advice import advice

CLEAN: dict[str, Series] = {
    "grad/clip_coefficient": [(i, 1.0 if i % 5 else 0.5) for i in range(100)],
    "train/loss": [(i, 2.0 / (1 + i)) for i in range(200)],
    "val/loss": [(i, 1.0 / (1 + i)) for i in range(10)],
    "schedule/lr": [(i, 1.0 - i / 100) for i in range(100)],
    "trainer/updates": [(99, 100.0)],
    "amp/scale": [(99, 1024.0)],
    "amp/skipped_steps": [(99, 2.0)],
}


def test_a_clean_run_gets_no_advice() -> None:
    (only,) = advice(CLEAN)
    assert only.startswith("Nothing has to change")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grad/clip_coefficient": [(i, 0.1) for i in range(100)], "grad/norm": [(0, 8.0), (1, 9.0), (2, 10.0)]},
         "100% of the logged updates were clipped.*median norm was 9. Raise"),
        ({"amp/skipped_steps": [(99, 40.0)]}, "40 updates were skipped beside 100"),
        ({"grad/nonfinite": [(5, 3.0)], "amp/scale": []}, "Nothing has to change"),
        ({"schedule/lr": [(i, 1.0 - i / 200) for i in range(100)]}, "at 50% of its peak"),
        ({"schedule/lr": [(i, 1.0) for i in range(100)]}, "Nothing has to change"),
        ({"val/loss": [(i, abs(i - 3) + 1.0) for i in range(10)]}, r"val/loss was best \(1\) at step 3 and ended at 7"),
        ({"train/loss": [(i, 200.0 - i) for i in range(200)]}, "still fell by .*over the last tenth"),
    ],
)  # fmt: skip
def test_each_rule_speaks_up_with_its_evidence(changed: dict[str, Series], words: str) -> None:
    import re

    found = advice({**CLEAN, **changed})
    assert len(found) == 1 and re.search(words, found[0]), found


def test_nan_is_told_where_no_loss_scale_explains_it() -> None:
    without = {k: v for k, v in CLEAN.items() if not k.startswith("amp/")}
    (text,) = advice({**without, "grad/nonfinite": [(5, 3.0)]})
    assert text.startswith("3 attempts had NaN or inf")
    skip = "Skip such updates: GradientClip(1.0, nonfinite='skip')."
    assert advice({**without, "grad/nonfinite": [(5, 3.0)]}, [skip], healthy=False) == [skip]


@pytest.mark.parametrize("seed", range(5))
def test_a_validation_set_of_few_samples_is_not_overfitting(seed: int) -> None:
    generator = random.Random(seed)
    noisy = [(i, 0.6 * math.exp(0.4 * generator.gauss(0, 1))) for i in range(40)]
    (only,) = advice({**CLEAN, "val/loss": noisy})
    assert only.startswith("Nothing has to change")


def test_remedies_come_first_and_once() -> None:
    assert advice(CLEAN, ["Lower the rate.", "Lower the rate."]) == ["Lower the rate."]


def test_of_a_run_that_went_wrong_nothing_is_said_of_how_a_good_one_gets_better() -> None:
    falling = {**CLEAN, "train/loss": [(i, 200.0 - i) for i in range(200)]}
    assert "train longer" in advice(falling)[0]
    assert advice(falling, ["Lower the rate."], healthy=False) == ["Lower the rate."]
    assert advice(falling, healthy=False)[0].startswith("Start with the verdict above")


def test_what_is_a_loss_of_the_users_own() -> None:
    assert is_own_loss("train_loss") and is_own_loss("val/Loss_epoch")
    assert not is_own_loss("diagnosis/training_doctor/loss") and not is_own_loss("accuracy")
