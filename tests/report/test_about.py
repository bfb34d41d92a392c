from __future__ import annotations

from pathlib import Path

from lightning_tricks.report.about import about, fact_rows
from lightning_tricks.report.blocks import Table
from lightning_tricks.report.logs import Logs

FACTS = {
    "started": "2026-11-27T10:00:00+00:00",
    "seconds": 600.0,
    "model": "Net",
    "parameters": 1000,
    "trained_parameters": 10,
    "found_rate": 0.01,
    "rate_was_set": False,
    "commit": "0123456789abcdef",
    "versions": {"torch": "2.9"},
    "optimizers": ["SGD(lr=0.1)"],
}


def test_facts_are_told_in_words_and_unknown_ones_are_left_out() -> None:
    assert dict(fact_rows(FACTS)) == {
        "started": "27 November 2026, 10:00 UTC, took 10 minutes",
        "model": "Net, 1,000 parameters, 10 of them trained",
        "optimizer": "SGD(lr=0.1)",
        "learning rate found": "0.01, not set",
        "git commit": "0123456789ab",
        "versions": "torch 2.9",
    }
    assert fact_rows({"started": "yesterday", "versions": "?"}) == []


def test_callbacks_have_only_the_arguments_that_were_logged_and_the_users_settings_stand_apart() -> None:
    hyperparameters = {"width": "8", "tricks": "GradientClip, LRSchedule", "GradientClip/rule": "ClipNorm(0.5)"}
    tables = [b for b in about(Logs(Path("run"), hyperparameters=hyperparameters)) if isinstance(b, Table)]
    assert [table.rows for table in tables] == [
        (("width", "8"),),
        (("GradientClip", "rule=ClipNorm(0.5)"), ("LRSchedule", "defaults")),
    ]


def test_runs_of_older_versions_that_logged_all_arguments_are_read() -> None:
    hyperparameters = {"GradientClip/rule": "1.0", "GradientClip/groups": "None"}
    (table,) = [b for b in about(Logs(Path("run"), hyperparameters=hyperparameters)) if isinstance(b, Table)]
    assert table.rows == (("GradientClip", "rule=1.0"),)
