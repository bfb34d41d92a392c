"""The log keys of schedules."""

from __future__ import annotations

from lightning_tricks.publishing.log_keys import LogKey

_S = "schedule"
SCHEDULE = (
    LogKey("schedule</optimizer>/lr", "learning rate of the first parameter group", (_S, "learning rate")),
    LogKey("schedule</optimizer>/lr/<group...>", "learning rate of a parameter group", (_S, "learning rate")),
    LogKey("schedule</optimizer>/momentum", "momentum, or beta1", (_S, "momentum, weight decay")),
    LogKey("schedule</optimizer>/weight_decay", "weight decay", (_S, "momentum, weight decay")),
)
