"""The log keys that all detectors have."""

from __future__ import annotations

from lightning_tricks.publishing.log_keys import EventKind, LogKey

_ALARM = EventKind("alarm", "rises above 0", "{key}")
ROLLBACK = (
    LogKey(
        "collapse/rollback/rollbacks",
        "rollbacks so far",
        ("collapse", "rollbacks"),
        EventKind("rollback", "grows", "back to an earlier state"),
    ),
    LogKey("collapse/rollback/lr_factor", "factor on the learning rates", ("collapse", "rollbacks")),
    LogKey("collapse/rollback/accumulate_factor", "factor on the accumulation window", ("collapse", "rollbacks")),
)


def alarm_key(detector: str, topic: str = "collapse", title: str = "alarms") -> LogKey:
    """Return the key of a detector's alarm.

    >>> alarm_key("dead_units").pattern.match("collapse/dead_units.encoder/alarm") is not None
    True
    """
    return LogKey(f"{topic}/{detector}<.label>/alarm", "1 while there is an alarm", (topic, title), _ALARM)


def detector_keys(detector: str, title: str) -> tuple[LogKey, ...]:
    """Return the keys of a detector whose values share a chart."""
    values = LogKey(f"collapse/{detector}<.label>/<value...>", "a value of the last check", ("collapse", title))
    return (alarm_key(detector), values, *ROLLBACK)
