"""One page about a run, for somebody who did not train the model: HTML with everything in it, and Markdown.

``story`` makes the blocks from the logs; ``rendering`` writes them down.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence, Set
from itertools import groupby
from pathlib import Path

from lightning_tricks.diagnosis.findings import Finding, ranked
from lightning_tricks.numerics.error_parts import error_parts
from lightning_tricks.publishing.events import Event, events
from lightning_tricks.report.about import about
from lightning_tricks.report.advice import advice
from lightning_tricks.report.all_keys import ALL_KEYS
from lightning_tricks.report.blocks import Block, Bullets, Conclusion, Heading, Paragraph, Table
from lightning_tricks.report.comparison import comparison
from lightning_tricks.report.logs import Logs, read_logs
from lightning_tricks.report.pictures import pictures
from lightning_tricks.report.rendering import as_html, as_markdown
from lightning_tricks.report.results import results
from lightning_tricks.report.verdict import causes_in, conclude, is_under_way, noticed, texts_of

_HIDDEN = ("grad/norm/", "grad/update_ratio/", "amp/headroom/", "amp/underflow/")
_LOOKING = ("DeadUnits", "PrecisionDoctor", "SanityCheck", "TrainingDoctor")


def write_report(
    run: Path, output: Path | None = None, *, compare: Path | None = None, renew: int | None = None
) -> list[Path]:
    """Write the report of a run; return the files.

    Args:
        output: ``.html`` or ``.md``; None for both, as ``report.html`` and ``report.md`` in the run's folder.
        renew: seconds after which a browser loads the page again; None for never.

    Raises:
        ValueError: there is no run in the folder, or several; the output has another ending, or no folder.
        ImportError: matplotlib or TensorBoard is missing.
    """
    if output is not None and output.suffix not in (".html", ".md"):
        raise ValueError(f"{output}: a report is .html or .md. Choose one of these endings.")
    if output is not None and not output.absolute().parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}. Make it first.")
    logs = read_logs(run)
    blocks = story(logs, None if compare is None else read_logs(compare))
    outputs = [logs.folder / "report.html", logs.folder / "report.md"] if output is None else [output]
    title = f"Run {name_of(logs)}"
    for path in outputs:
        text = as_html(title, blocks, renew) if path.suffix == ".html" else as_markdown(title, blocks, path)
        path.write_text(text, encoding="utf-8")
    return outputs


def watch(
    run: Path,
    output: Path | None = None,
    *,
    compare: Path | None = None,
    seconds: int = 30,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """Write the report again and again until the run has ended; return the files.

    Args:
        seconds: between two pages; an open page renews itself as often.
    """
    while is_under_way(read_logs(run)):
        write_report(run, output, compare=compare, renew=seconds)
        sleep(seconds)
    return write_report(run, output, compare=compare)


def name_of(logs: Logs) -> str:
    """Return what a reader calls a run: the last two folders, since the last one is mostly a version."""
    return "/".join(logs.folder.absolute().parts[-2:])


def story(logs: Logs, other: Logs | None = None) -> list[Block]:
    """Return the blocks of a report: verdict, results, what to change, the run, what happened, pictures, numbers."""
    happened = events(logs.scalars, ALL_KEYS)
    conclusion = conclude(logs, happened)
    return [
        conclusion,
        *results(logs),
        *([] if other is None else comparison(logs, other, name_of(logs), name_of(other))),
        *_next(logs, conclusion),
        *_error(logs, healthy=conclusion.level not in ("bad", "warning")),
        *about(logs),
        *timeline(logs, happened),
        *pictures(logs, happened),
        *_numbers(logs),
    ]


def _next(logs: Logs, conclusion: Conclusion) -> list[Block]:
    # what the doctor is not sure of, or contradicts what it is surer of, is reported below, and is not advice
    remedies = [finding.next_step for finding in ranked(noticed(texts_of(logs)))]
    # (remedies separate their steps by semicolons)
    steps = [step for remedy in remedies for step in map(str.strip, remedy.split(";"))]
    told = [not_yet_done(step, logs.hyperparameters.get("tricks", "").split(", ")) for step in steps]
    steps = [f"{step[:1].upper()}{step[1:]}." for step in told if step]
    healthy = conclusion.level not in ("bad", "warning")
    found = tuple(advice(logs.scalars, steps, healthy=healthy))
    return [Heading("What to change next"), Bullets(found)]


def not_yet_done(step: str, tricks: Sequence[str]) -> str:
    """Return a step of a remedy without the callback that does it, where that was in use; empty where nothing is left.

    Args:
        step: e.g. ``"lower the learning rate: LRFinder()"``.

    >>> not_yet_done("lower the learning rate: LRFinder()", ["LRFinder"])
    'lower the learning rate'
    >>> not_yet_done("clip gradients: GradientClip(1.0)", ["GradientClip"])
    'clip gradients at a lower threshold'
    >>> not_yet_done("find the module: PrecisionDoctor()", ["PrecisionDoctor"])
    ''
    """
    words, _, call = step.partition(": ")
    name = re.match(r"(\w+)\(.*\)$", call)
    if name is None or name[1] not in tricks:
        return step
    if name[1] in _LOOKING:  # (what it found is in the report)
        return ""
    return f"{words} at a lower threshold" if name[1] == "GradientClip" else words


def _error(logs: Logs, *, healthy: bool) -> list[Block]:
    """Where the error comes from, where the doctor logged the losses at the end."""
    prefix = "diagnosis/training_doctor/error/"
    values = {k.removeprefix(prefix): p[-1][1] for k, p in logs.scalars.items() if k.startswith(prefix) and p}
    best, last = (values.get(name, math.nan) for name in ("validation_best", "validation"))
    validation = [v for v in (best, last) if math.isfinite(v)]
    parts = error_parts(values.get("initial", math.nan), values.get("training", math.nan), validation)
    if parts is None:
        return []
    return [Heading("Where the error comes from"), Bullets(tuple(parts.sentences(advise=healthy)))]


def _numbers(logs: Logs) -> list[Block]:
    rows = []
    for key, points in sorted(logs.scalars.items()):
        finite = [v for _, v in points if math.isfinite(v)]
        if finite and not key.startswith(_HIDDEN):
            rows.append(
                (key, str(len(points)), *(f"{v:.4g}" for v in (points[0][1], min(finite), max(finite), points[-1][1])))
            )
    return [Heading("All numbers"), Table(("key", "values", "first", "least", "greatest", "last"), tuple(rows))]


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
