"""The log key of the run itself."""

from __future__ import annotations

from lightning_tricks.publishing.log_keys import LogKey

RUN = (LogKey("trainer/updates", "steps that changed weights", ("schedule", "updates"), optimizers=True),)
