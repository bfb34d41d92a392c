"""Who only watches changes nothing of a training that we did not write."""

from __future__ import annotations

import functools

import pytest

from lightning_tricks import SanityCheck
from tests.strangers.cases import OBSERVERS, made, strangers
from tests.strangers.recorder import Record, recorded, undisturbed
from tests.strangers.signs import assert_said
from tests.strangers.stranger import Stranger

pytestmark = [pytest.mark.strangers, pytest.mark.filterwarnings("ignore")]
# whether a batch can be learnt by heart in 60 updates depends on the learning rate that the package chose
MATTER_OF_RATE = "overfits one batch"


@functools.cache  # (for two tests)
def observed(stranger: Stranger) -> Record:
    return recorded(stranger, made(OBSERVERS, stranger))


@pytest.mark.parametrize("stranger", strangers("observers"))
def test_observers_leave_gradients_weights_metrics_and_random_numbers_as_they_are(stranger: Stranger) -> None:
    alone, watched = undisturbed(stranger), observed(stranger)
    assert alone.finished and watched.finished
    assert len(alone.gradients) >= 10, "a training of which something could be seen"
    assert watched.gradients == alone.gradients
    assert watched.weights == alone.weights
    assert watched.generators == alone.generators
    assert_said(stranger, watched.warnings, set(OBSERVERS))


@pytest.mark.parametrize("stranger", strangers("metrics"))
def test_what_the_module_logs_is_not_touched_by_observers(stranger: Stranger) -> None:
    alone, watched = undisturbed(stranger), observed(stranger)
    theirs = set().union(*alone.metrics)
    assert [{n: epoch[n] for n in epoch if n in theirs} for epoch in watched.metrics] == alone.metrics


def _can_be_checked(stranger: Stranger) -> bool:
    return "SanityCheck" not in {*stranger.refused, *stranger.skipped}


@pytest.mark.parametrize("stranger", strangers("sanity", _can_be_checked))
def test_the_sanity_check_can_ask_the_model_and_finds_no_fault_that_is_not_there(stranger: Stranger) -> None:
    check = SanityCheck()
    recorded(stranger, [check])
    assert not [c for c in check.checks if "Misconfiguration" in str(c)], "the Trainer was asked in a way of ours"
    failed = {c.name for c in check.checks if c.passed is False}
    assert failed - {MATTER_OF_RATE} == set(stranger.true_findings)
