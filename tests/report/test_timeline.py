from __future__ import annotations

from pathlib import Path

from lightning_tricks.publishing.events import events
from lightning_tricks.report.all_keys import ALL_KEYS
from lightning_tricks.report.blocks import Paragraph, Table
from lightning_tricks.report.logs import Logs
from lightning_tricks.report.timeline import timeline


def of(logs: Logs) -> list[object]:
    return [*timeline(logs, events(logs.scalars, ALL_KEYS))]


def test_many_events_of_a_kind_are_one_row() -> None:
    logs = Logs(Path("run"), {"grad/clip_coefficient": [(i, 0.5) for i in range(50)]})
    table = next(b for b in of(logs) if isinstance(b, Table))
    assert table.rows == (("0 to 49 (50 times)", "clip", ""),)


def test_an_event_has_the_step_at_which_it_was_logged() -> None:
    logs = Logs(Path("run"), {"collapse/dead_units/alarm": [(9, 0.0), (19, 0.0), (29, 1.0), (39, 1.0), (49, 0.0)]})
    table = next(b for b in of(logs) if isinstance(b, Table))
    assert table.rows == (("29", "alarm", "dead units"),)


def test_a_finding_is_not_told_again_beside_the_verdict_about_it() -> None:
    finding = "dead units (step 9, confidence 90%): 90% are dead. Next: a lower rate."
    verdict = "DeadUnits: dead units since step 3 (seen at step 9): 90% are dead. Try: a lower rate."
    other = "plateau (step 9, confidence 50%): the loss is flat. Next: wait."
    run = Logs(Path("run"), texts={"diagnosis/a": [(9, finding), (9, other)], "collapse/b/verdict": [(9, verdict)]})
    assert [b.text for b in of(run) if isinstance(b, Paragraph)][1:] == [f"Step 9: {other}", f"Step 9: {verdict}"]


def test_without_events_a_sentence_says_so() -> None:
    assert any(isinstance(b, Paragraph) and b.text.startswith("No update was clipped") for b in of(Logs(Path("run"))))
