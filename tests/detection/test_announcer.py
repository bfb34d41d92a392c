"""How verdicts reach the loggers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lightning_tricks import DeadUnits
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.announcer import Announcer, log_prefix


def test_the_key_has_the_identity_only_where_there_are_several_of_a_class() -> None:
    one, two = DeadUnits(["a"]), DeadUnits(["b"])
    alone, both = (SimpleNamespace(tricks=tricks) for tricks in ([one], [one, two]))
    assert log_prefix(one, alone, "collapse") == "collapse/dead_units"  # type: ignore[arg-type]
    assert log_prefix(one, both, "collapse") == "collapse/dead_units.['a']"  # type: ignore[arg-type]
    assert log_prefix(one, both, "collapse", "first") == "collapse/dead_units.first"  # type: ignore[arg-type]


def test_an_alarm_reaches_the_loggers_as_text_and_picture_and_then_whoever_listens() -> None:
    told: list[Any] = []
    publisher = SimpleNamespace(
        log_text=lambda step, key, text: told.append((step, key)),
        draw=lambda step, key, draw: told.append((step, key, draw())),
    )
    trick = DeadUnits()
    run: Any = SimpleNamespace(tricks=[trick], publisher=publisher)
    announcer, verdict = Announcer(trick, lambda: lambda: "figure", "collapse"), Verdict("DeadUnits", True, 7)
    announcer.listener = lambda run, verdict: told.append(verdict)
    announcer.announce(run, verdict)
    key = "collapse/dead_units"
    assert told == [(7, f"{key}/verdict"), (7, f"{key}/figure", "figure"), verdict]


def test_without_anything_to_draw_no_figure_is_given() -> None:
    trick = DeadUnits()
    run: Any = SimpleNamespace(tricks=[trick], publisher=None)
    Announcer(trick, lambda: None, "collapse").draw(run, 3)
