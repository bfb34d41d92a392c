from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch

from lightning_tricks import LRSchedule, TrickWarning
from lightning_tricks.schedules.groups import KnownGroup
from lightning_tricks.schedules.state import (
    current_configuration,
    restored_groups,
    restored_time,
    saved_groups,
    schedule_form,
)
from tests.problems import Classifier, loader, trainer

# What 0.1.0 wrote before the configuration had every argument: after 16 updates of LRSchedule("linear", warmup=2).
OLD: dict[str, Any] = {
    "version": 1,
    "configuration": {
        "decay": "Linear()",
        "final": 0.0,
        "hold": "0st",
        "momentum": "None",
        "overrides": "{}",
        "shape": "linear",
        "start": 0.0,
        "total": "None",
        "warmup": "2st",
        "weight_decay_final": None,
    },
    "clock": {"version": 1, "attempted": [16], "applied": [16]},
    "state": {
        "base": [[[0.05, 0.0]]],
        "bounds": [4, -1, 8.0, [[0, 1]]],
        "courses": [{"end": 32, "held": 0, "place": 0, "planned": 32, "speed": 1, "total": 32, "updates": 0}],
        "elapsed": 0.0,
        "learning": False,
        "of_validation": False,
        "pace": {
            "at_epoch": [8],
            "batches": 16,
            "in_epoch": 8,
            "look_at": 17,
            "per_epoch": 8,
            "steppings": [
                {"attempts": 15, "before": 14, "first": 0, "last": 14, "mark": [8, 8], "start": [4, 4], "unseen": 0}
            ],
            "updates_per_epoch": [8],
        },
        "plateau": None,
    },
}


class Rates(L.Callback):
    def __init__(self) -> None:
        self.used: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.used.append(optimizer.param_groups[0]["lr"])


def test_a_run_with_an_old_state_goes_on_with_the_rates_of_an_uninterrupted_run(tmp_path: Path) -> None:
    rates = Rates()
    trainer([LRSchedule("linear", warmup=2), rates], max_epochs=4).fit(Classifier(), loader(64))
    first = trainer([LRSchedule("linear", warmup=2)], max_epochs=2)
    first.fit(Classifier(), loader(64))
    first.save_checkpoint(tmp_path / "new.ckpt")
    saved = torch.load(tmp_path / "new.ckpt", weights_only=True)
    saved["callbacks"]["LRSchedule{}"] = OLD
    torch.save(saved, tmp_path / "old.ckpt")
    resumed = Rates()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        trainer([LRSchedule("linear", warmup=2), resumed], max_epochs=4).fit(
            Classifier(), loader(64), ckpt_path=tmp_path / "old.ckpt"
        )
    assert resumed.used == rates.used[16:]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"warmup_shape": "cosine"}, "warmup_shape: 'linear' -> 'cosine'"),
        ({"warmup_start": 0.5}, "warmup_start: 0.0 -> 0.5"),
        ({"total": 100}, "total: None -> '100st'"),
        ({"momentum": (0.9, 0.8)}, r"momentum: None -> \[0.9, 0.8\]"),
    ],
)
def test_other_arguments_than_those_of_an_old_state_are_told_under_todays_names(
    arguments: dict[str, Any], told: str
) -> None:
    with pytest.warns(TrickWarning, match=told):
        LRSchedule("linear", **{"warmup": 2, **arguments}).load_state_dict(copy.deepcopy(OLD))


def test_a_conflict_policy_that_was_changed_is_told(tmp_path: Path) -> None:
    state = {**OLD, "configuration": LRSchedule("linear", warmup=2).configuration()}  # type: ignore[attr-defined]
    with pytest.warns(TrickWarning, match="conflict: 'error' -> 'replace'"):
        LRSchedule("linear", warmup=2, conflict="replace").load_state_dict(state)


def test_both_forms_of_a_state_are_recognised_and_damage_is_named() -> None:
    assert schedule_form(OLD["state"], "state") is None
    first = {
        **{name: OLD["state"][name] for name in ("base", "plateau", "of_validation")},
        "pace": {"planned": 72, "end": 71, "held": 0, "elapsed": 0.25},
    }
    assert schedule_form(first, "state") is None
    assert restored_time(first, 0.5) == 0.25
    assert restored_time({}, 0.5) == 0.5
    assert restored_time({**OLD["state"], "elapsed": 0.75}, 0.5) == 0.75
    fault = schedule_form({**OLD["state"], "elapsed": -1.0}, "state")
    assert fault is not None and "state['elapsed'] must be a finite number >= 0" in fault
    assert current_configuration({"conflict": "error"}) == {"conflict": "error"}


def test_base_values_come_back_and_optimizers_that_are_new_have_none() -> None:
    known = [[KnownGroup((), 0.1, 0.01), KnownGroup((), 0.2, 0.0)]]
    back = restored_groups({"base": saved_groups(known)}, 2)
    assert back == [*known, []]
    assert restored_groups({}, 1) == [[]]
