"""How a run went, in a colour and two sentences, and the names that its events have in the report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, timezone

from lightning_tricks.detection.causes import Cause
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.publishing.events import Event
from lightning_tricks.publishing.log_keys import is_own_loss
from lightning_tricks.report.blocks import Conclusion
from lightning_tricks.report.logs import Logs

_SILENT = 600.0  # seconds without a new log entry after which a run without an end no longer counts as running
# as ``detection.alarm.Verdict.__str__`` writes it
_VERDICT = re.compile(r"^(\w+): (.+?) since step (\d+) \(seen at step (\d+)\): (.*?)(?: Try: (.*?))?\.?$", re.M)


def noticed(texts: Sequence[str]) -> list[Finding]:
    """Return the findings and the verdicts among texts of the log, each once; a verdict is as sure as an alarm."""
    found: dict[str, Finding] = {}
    for text in texts:
        # (a summary has a paragraph for each finding, which begins with who tells it, and others that are none)
        for part in text.split("\n\n"):
            told = part.removeprefix("TrainingDoctor: ")
            if (finding := Finding.from_text(told)) is not None:
                found.setdefault(told, finding)
        for line in re.findall(r"^.*Try: .+$", text, re.M):
            cause = re.match(r"\w+: (.+?) since step", line)
            remedy = line.split("Try: ", 1)[1].rstrip(".")
            kind = Cause.named(cause[1]) if cause else Cause.NONE
            found.setdefault(line, Finding(kind, line, 1.0, remedy, -1))
    return list(found.values())


def texts_of(logs: Logs) -> list[str]:
    """Return what detectors and the doctor have written, but for findings that did not hold at the end."""
    told = [
        text
        for tag, texts in logs.texts.items()
        if tag.startswith(("collapse/", "diagnosis/")) and not _taken_back(logs, tag)
        for _, text in texts
    ]
    return told + [str(text) for name in ("verdicts", "findings") for text in (logs.health or {}).get(name, [])]


def _taken_back(logs: Logs, tag: str) -> bool:
    points = logs.scalars.get(tag) or [(0, 1.0)]
    return points[-1][1] == 0


def sentence_of(verdict: str) -> str:
    """Return a detector's verdict as a sentence, without the remedy, which is given elsewhere.

    >>> sentence_of("DeadUnits: dead units since step 8 (seen at step 20): 90% are dead. Try: a lower rate.")
    'DeadUnits reported dead units since step 8: 90% are dead.'
    """
    found = _VERDICT.search(verdict)
    if found is None:
        return verdict
    return f"{found[1]} reported {found[2]} since step {found[3]}: {found[5].rstrip('.')}."


def causes_in(text: str) -> list[str]:
    """Return the causes of the verdicts in a string.

    >>> causes_in("DeadUnits: dead units since step 8 (seen at step 20): 90% are dead. Try: a lower rate.")
    ['dead units']
    """
    return [found[2] for found in _VERDICT.finditer(text)]


def is_under_way(logs: Logs, now: datetime | None = None) -> bool:
    """Whether a run has not ended and its logs grew in the last minutes."""
    age = (now or datetime.now(timezone.utc)).timestamp() - logs.changed
    return bool(logs.facts) and logs.facts.get("ended") is None and age < _SILENT


def _lost(logs: Logs) -> bool:
    """Whether a loss of the training script ended as NaN or inf."""
    losses = [points for key, points in logs.scalars.items() if is_own_loss(key) and points]
    return any(not math.isfinite(points[-1][1]) for points in losses)


def conclude(logs: Logs, happened: Sequence[Event], now: datetime | None = None) -> Conclusion:
    """Return how a run went: failed, without a finite loss, with alarms, under way, without a known end, or well."""
    length = _length(logs)
    alarms = [event for event in happened if event.kind == "alarm"]
    verdicts = list(dict.fromkeys(m[0] for text in texts_of(logs) for m in _VERDICT.finditer(text)))
    seen = " ".join(sentence_of(verdict) for verdict in verdicts[-2:])
    outcome = str(logs.facts.get("outcome") or "")
    if outcome.startswith("failed") or (logs.health is not None and not outcome):
        why = outcome.removeprefix("failed: ") or str((logs.health or {}).get("why", "no reason was written"))
        culprit = (logs.health or {}).get("culprit")
        text = f"It ended with an error after {length}: {why}. {seen}"
        return Conclusion("bad", "The run failed", text + (f" Where it came from: {culprit}" if culprit else ""))
    lost = _lost(logs)
    if alarms or verdicts or lost:
        stopped = outcome == "stopped early"
        title = _title(stopped=stopped, lost=lost, alarmed=bool(alarms or verdicts))
        first = f"{alarms[0].text[:1].upper()}{alarms[0].text[1:]} at step {alarms[0].step}." if alarms else ""
        rollbacks = sum(event.kind == "rollback" for event in happened)
        healed = f" Weights were put back to an earlier state {rollbacks} times." if rollbacks else ""
        under_way = "It is still under way," if is_under_way(logs, now) else "Its logs end"
        ended = "It was stopped" if stopped else "It ran to its end" if outcome else under_way
        text = f"{seen or first}{healed} {ended} after {length}.".strip()
        return Conclusion("bad" if stopped or lost else "warning", title, text)
    if logs.facts and logs.facts.get("ended") is None:
        if is_under_way(logs, now):
            return Conclusion("running", "The run is under way", f"No alarm so far, after {length}.")
        text = f"The logs end after {length}, and nothing was written about an end: the process may have been killed."
        return Conclusion("unknown", "The run did not finish", text)
    if outcome == "stopped early":
        return Conclusion("good", "The run was stopped early, without an alarm", f"It took {length}.")
    if outcome == "finished":
        return Conclusion("good", "The run finished normally", f"It took {length}; no alarm was raised.")
    return Conclusion("good", "No alarm was raised", f"There is no sign that the run failed. It took {length}.")


def _title(*, stopped: bool, lost: bool, alarmed: bool) -> str:
    if stopped and alarmed:
        return "An alarm stopped the run"
    return "The run failed: its loss is NaN or inf" if lost else "The run needs attention: a detector raised an alarm"


def _length(logs: Logs) -> str:
    steps, updates = logs.facts.get("steps"), logs.facts.get("updates")
    length = f"{logs.steps if steps is None else steps:,} steps"
    if steps is not None and updates is not None and updates < steps:
        length += f" ({updates:,} of them changed the weights)"
    seconds = float(logs.facts.get("seconds") or logs.seconds)
    return f"{length} and {duration(seconds)}" if seconds > 0 and math.isfinite(seconds) else length


def duration(seconds: float) -> str:
    """Return a duration in words.

    >>> duration(12.4), duration(600), duration(9000)
    ('12 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 120:
        return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
