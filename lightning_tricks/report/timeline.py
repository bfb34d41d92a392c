"""What happened when: the events of a run in words, and what detectors and the doctor wrote about them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import groupby

from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.publishing.events import Event
from lightning_tricks.report.blocks import Block, Bullets, Heading, Paragraph, Table
from lightning_tricks.report.logs import Logs
from lightning_tricks.report.verdict import causes_in

_MEANING = {
    "clip": "the gradient norm exceeded the threshold and was clipped",
    "non-finite": "a gradient held NaN or inf",
    "skip": "16-bit precision: the loss scale was too large, no update was made",
    "finding": "the doctor noticed something",
    "alarm": "a detector raised an alarm",
    "rollback": "weights and optimizer were put back to an earlier, healthy state",
}
_MOST_ROWS = 60


def timeline(logs: Logs, happened: Sequence[Event]) -> list[Block]:
    """Return the section on events: steps, kinds and words, events in a row as one."""
    rows = []
    for (kind, text), group in groupby(happened, key=lambda event: (event.kind, _merged(event))):
        steps = [event.step for event in group]
        when = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]} ({len(steps)} times)"
        rows.append((when, kind, text))
    kinds = [kind for kind in _MEANING if any(event.kind == kind for event in happened)]
    meanings = Bullets(tuple(f"{kind}: {_MEANING[kind]}" for kind in kinds))
    found: list[Block] = [Heading("What happened when")]
    if not rows:
        found.append(Paragraph("No update was clipped or skipped, and nothing was noticed, as far as it was logged."))
    else:
        shown = rows if len(rows) <= _MOST_ROWS else [*rows[: _MOST_ROWS - 1], ("...", "", f"{len(rows)} rows in all")]
        found += [meanings, Table(("step", "event", "what"), tuple(shown))]
    alarmed = {cause for texts in logs.texts.values() for _, text in texts for cause in causes_in(text)}
    for tag, texts in logs.texts.items():
        if tag.startswith(("collapse/", "diagnosis/")) and tag not in ("diagnosis/sanity", "diagnosis/summary"):
            told = [(step, text) for step, text in texts if not _is_finding_of(text, alarmed)]
            # (a detector writes at each alarm: the latest are enough)
            found += [Paragraph(f"Step {step}: {text}") for step, text in told[-5:]]
    return found


def _is_finding_of(text: str, alarmed: Set[str]) -> bool:
    """Whether a string is a finding that a detector raised an alarm about, with the same words."""
    finding = Finding.from_text(text)
    return finding is not None and str(finding.kind) in alarmed


def _merged(event: Event) -> str:
    # (their texts hold numbers, which differ from step to step)
    return "" if event.kind in ("clip", "skip", "non-finite") else event.text
