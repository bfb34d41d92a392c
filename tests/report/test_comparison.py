from __future__ import annotations

from pathlib import Path

from lightning_tricks.report.blocks import Paragraph, Picture, Table
from lightning_tricks.report.comparison import comparison, in_words, settings_that_differ
from lightning_tricks.report.logs import Logs

ONE = Logs(
    Path("a"),
    {"val/loss": [(4, 0.5), (9, 0.4)], "val/accuracy": [(9, 0.8)], "train/loss": [(0, 2.0)]},
    hyperparameters={"width": "8", "lr": "0.1", "GradientClip/rule": "1.0"},
)
TWO = Logs(
    Path("b"), {"val/loss": [(4, 0.3)], "val/accuracy": [(9, 0.7)]}, hyperparameters={"width": "16", "lr": "0.1"}
)


def test_less_is_better_for_a_loss_and_more_for_an_accuracy() -> None:
    words = in_words(ONE, TWO, "b")
    assert "The other run is better in val/loss: 0.4 here, 0.3 there." in words
    assert "This run is better in val/accuracy: 0.8 here, 0.7 there." in words
    assert "train/loss" not in words
    assert "Both reach the same val/loss, 0.4." in in_words(ONE, ONE, "a")


def test_only_settings_that_differ_are_shown() -> None:
    assert settings_that_differ(ONE, TWO) == (("width", "8", "16"), ("GradientClip/rule", "1.0", ""))
    blocks = comparison(ONE, ONE, "a", "a again")
    assert any(isinstance(b, Paragraph) and b.text == "The settings are the same." for b in blocks)


def test_a_measure_of_one_run_alone_is_said_to_be_missing_and_the_losses_are_drawn() -> None:
    blocks = comparison(ONE, TWO, "a", "b")
    best = next(b for b in blocks if isinstance(b, Table))
    assert best.header == ("best value", "a", "b")
    assert ("train/loss", "2 at step 0", "not measured") in best.rows
    assert any(isinstance(b, Picture) for b in blocks)
