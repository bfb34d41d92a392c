from __future__ import annotations

from itertools import product

import pytest

from lightning_tricks.gradients import nonfinite_policy as policy
from lightning_tricks.gradients.nonfinite import NonFinite
from lightning_tricks.gradients.specs import NONFINITE

FOUND = NonFinite((7,), {"head.weight": 1}, True)


@pytest.mark.parametrize(("choice", "scaled"), list(product(NONFINITE, [True, False])))
def test_each_policy_does_one_thing_and_a_grad_scaler_always_skips(choice: str, scaled: bool) -> None:
    assert policy.zeroes(choice, scaled=scaled) is (choice == "zero" and not scaled)
    assert policy.skips(choice, scaled=scaled) is (scaled or choice != "warn")


@pytest.mark.parametrize(("choice", "on_host", "folds"), list(product(NONFINITE, [True, False], [True, False])))
def test_a_run_ends_at_once_where_no_device_can_hold_the_step_back(choice: str, on_host: bool, folds: bool) -> None:
    assert not policy.raises_at_once(choice, scaled=True, on_host=on_host, folds=folds)
    waits_for_the_device = not on_host and folds
    at_once = policy.raises_at_once(choice, scaled=False, on_host=on_host, folds=folds)
    assert at_once is (choice == "raise" and not waits_for_the_device)


def test_an_overflow_of_the_scaled_gradient_is_ordinary_unless_the_loss_was_not_finite() -> None:
    losses: list[tuple[bool | None, bool]] = [(True, True), (None, True), (False, False)]
    for loss, ordinary in losses:
        assert policy.is_ordinary(NonFinite((1,), {}, loss), scaled=True) is ordinary
        assert not policy.is_ordinary(NonFinite((1,), {}, loss), scaled=False)


def test_texts_say_where_and_what_happened() -> None:
    assert policy.error_text(3, FOUND).startswith("GradientClip(nonfinite='raise'): step 3: NaN or inf in the gradien")
    assert policy.warning_text("warn", 3, FOUND, scaled=False).endswith("They went through.")
    assert policy.warning_text("warn", 3, FOUND, scaled=True).endswith("They were skipped.")
    assert policy.warning_text("skip", 3, FOUND, scaled=False).endswith("They were skipped.")
