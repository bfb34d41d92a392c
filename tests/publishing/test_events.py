from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from lightning_tricks.publishing.events import KINDS, Event, Series, mark_events
from lightning_tricks.publishing.events import events as events_of
from lightning_tricks.report.all_keys import ALL_KEYS


def events(series: dict[str, Series]) -> list[Event]:
    return events_of(series, ALL_KEYS)


def test_each_kind_is_read_from_its_key() -> None:
    found = events(
        {
            "grad/clip_coefficient": [(1, 1.0), (2, 0.25), (3, float("nan"))],
            "grad/nonfinite": [(1, 0.0), (4, 3.0)],
            "amp/skipped_steps": [(1, 0.0), (5, 2.0), (6, 2.0), (7, 3.0)],
            "collapse/dead_units/alarm": [(1, 0.0), (8, 1.0), (9, 1.0), (10, 0.0), (11, 1.0)],
            "diagnosis/training_doctor/alarm": [(12, 1.0)],
            "diagnosis/large_updates": [(13, 1.0)],
            "diagnosis/training_doctor/loss": [(13, 1.0)],
            "collapse/rollback/rollbacks": [(14, 1.0), (15, 2.0)],
            "collapse/rollback/lr_factor": [(14, 0.2)],
            "grad/norm": [(1, 9.0)],
        }
    )
    assert found == [
        Event(2, "clip", "to 0.25 of the norm"),
        Event(4, "non-finite", "3 attempts"),
        Event(5, "skip", "2 updates"),
        Event(7, "skip", "1 updates"),
        Event(8, "alarm", "dead units"),
        Event(11, "alarm", "dead units"),
        Event(12, "alarm", "training doctor"),
        Event(13, "finding", "large updates"),
        Event(14, "rollback", "back to an earlier state"),
        Event(15, "rollback", "back to an earlier state"),
    ]


def test_keys_of_several_optimizers_tell_too_and_others_do_not() -> None:
    assert [e.kind for e in events({"grad/clip_coefficient/optimizer1": [(0, 0.5)]})] == ["clip"]
    for key in ("grad/norm", "train/loss", "collapse/rollback/lr_factor", "diagnosis/training_doctor/loss", "alarm"):
        assert ALL_KEYS.event_of(key) is None and events({key: [(0, 0.5)]}) == []


def test_events_are_marked_where_they_happened() -> None:
    ax: Any = Figure().subplots()
    mark_events(ax, [Event(3, "clip", ""), Event(5, "clip", ""), Event(7, "alarm", ""), Event(9, "alarm", "")])
    assert ax.get_legend_handles_labels()[1] == ["clip (2)", "alarm (2)"]
    assert list(ax.lines[0].get_xdata()) == [3, 5]
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [7, 9]
    assert len(set(KINDS)) == 6
