"""A training that we did not write, stopped and resumed, is the training that was not stopped."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from lightning_tricks import ExactResume, UnsupportedError
from tests.strangers.cases import strangers
from tests.strangers.recorder import Record, recorded
from tests.strangers.stranger import Stranger

pytestmark = [pytest.mark.strangers, pytest.mark.filterwarnings("ignore")]
SAVED = {"enable_checkpointing": True}


def saving(stranger: Stranger, folder: Path) -> list[Any]:
    callbacks = importlib.import_module(f"{stranger.namespace}.callbacks")
    every = {"every_n_train_steps": stranger.saved_at, "save_top_k": -1, "filename": "{step}"}
    return [ExactResume(), callbacks.ModelCheckpoint(folder, **every)]


def stopped_and_resumed(stranger: Stranger, folder: Path) -> tuple[Record, Record]:
    whole = recorded(stranger, saving(stranger, folder / "whole"), SAVED)
    assert len(whole.gradients) > stranger.saved_at
    checkpoint = folder / "whole" / f"step={stranger.saved_at}.ckpt"
    return whole, recorded(stranger, saving(stranger, folder / "resumed"), SAVED, str(checkpoint))


def _all_is_saved(stranger: Stranger) -> bool:
    return not stranger.not_resumed


@pytest.mark.parametrize("stranger", strangers("resume", _all_is_saved))
def test_a_resumed_training_goes_on_with_the_same_bits(stranger: Stranger, tmp_path: Path) -> None:
    whole, resumed = stopped_and_resumed(stranger, tmp_path)
    assert resumed.finished
    assert resumed.tail(0) == whole.tail(stranger.saved_at)


@pytest.mark.parametrize("stranger", strangers("resume", lambda stranger: bool(stranger.not_resumed)))
def test_what_cannot_be_resumed_exactly_is_refused_by_name(stranger: Stranger, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"^ExactResume: .*{stranger.not_resumed}"):
        stopped_and_resumed(stranger, tmp_path)
