"""The callbacks that the README recommends, all together, in trainings that we did not write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lightning_tricks import TrickError
from tests.strangers.cases import FULL_LIST, OBSERVERS, made, strangers
from tests.strangers.recorder import recorded
from tests.strangers.signs import assert_said
from tests.strangers.stranger import Stranger

pytestmark = [pytest.mark.strangers, pytest.mark.filterwarnings("ignore")]


def trains_to_the_end(stranger: Stranger, arguments: Mapping[str, Any]) -> None:
    record = recorded(stranger, made(FULL_LIST, stranger), arguments)
    assert record.finished and record.finite and record.gradients
    assert not record.stopped, [text for text in record.warnings if text.startswith("TrainingDoctor")]
    assert_said(stranger, record.warnings, set(FULL_LIST))


@pytest.mark.parametrize("stranger", strangers("full list"))
def test_the_readmes_list_trains_to_the_end(stranger: Stranger) -> None:
    trains_to_the_end(stranger, stranger.trainer)


@pytest.mark.parametrize("stranger", strangers("bf16-mixed"))
def test_the_readmes_list_trains_to_the_end_in_bf16_mixed(stranger: Stranger) -> None:
    trains_to_the_end(stranger, {**stranger.trainer, "precision": "bf16-mixed"})


def _objections() -> list[Any]:
    return [
        pytest.param(case.values[0], name, said, id=f"{case.id}-{name}")
        for case in strangers("refusals")
        for name, said in {**case.values[0].refused, **case.values[0].conflicts}.items()
    ]


@pytest.mark.parametrize(("stranger", "name", "said"), _objections())
def test_what_cannot_work_is_refused_by_name_before_the_first_update(stranger: Stranger, name: str, said: str) -> None:
    make, arguments = {**OBSERVERS, **FULL_LIST}[name]
    with pytest.raises(TrickError, match=said) as error:
        recorded(stranger, [make(**arguments)])
    assert name in str(error.value)
