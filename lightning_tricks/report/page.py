"""One page about a run, for somebody who did not train the model: HTML with everything in it, and Markdown.

``story`` makes the blocks from the logs; ``as_html`` and ``as_markdown`` only write them down.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lightning_tricks.detection.causes import Cause
from lightning_tricks.diagnosis.findings import Finding, ranked
from lightning_tricks.numerics.error_parts import ErrorParts
from lightning_tricks.publishing.events import Event, events
from lightning_tricks.publishing.log_keys import is_own_loss
from lightning_tricks.report import figures
from lightning_tricks.report.advice import advice
from lightning_tricks.report.all_keys import ALL_KEYS
from lightning_tricks.report.logs import Logs, Points, read_logs

_MEANING = {
    "clip": "the gradient was longer than the threshold and was shortened",
    "non-finite": "a gradient held NaN or inf",
    "skip": "16-bit precision: the loss scale was too large, no update was made",
    "finding": "the doctor noticed something",
    "alarm": "a detector raised an alarm",
    "rollback": "weights and optimizer were put back to an earlier, healthy state",
}
_OURS = ("grad/", "schedule/", "amp/", "collapse/", "diagnosis/", "accumulation/", "trainer/", "hp_metric", "lr_finder")
_MOST_ROWS = 60


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows."""

    name: str
    caption: str
    png: bytes


Block = Heading | Paragraph | Bullets | Table | Picture


def write_report(run: Path, output: Path | None = None) -> list[Path]:
    """Write the report of a run; return the files.

    Args:
        run: folder of a run.
        output: ``.html`` or ``.md``; None for both, as ``report.html`` and ``report.md`` in the run's folder.

    Raises:
        ValueError: there is no run in the folder, or several; the output has another ending.
        ImportError: matplotlib or TensorBoard is missing.
    """
    if output is not None and output.suffix not in (".html", ".md"):
        raise ValueError(f"{output}: a report is .html or .md. Choose one of these endings.")
    logs = read_logs(run)
    blocks = story(logs)
    outputs = [logs.folder / "report.html", logs.folder / "report.md"] if output is None else [output]
    for path in outputs:
        if path.suffix == ".html":
            path.write_text(as_html(f"Run {logs.folder.name}", blocks), encoding="utf-8")
        else:
            path.write_text(as_markdown(f"Run {logs.folder.name}", blocks, path), encoding="utf-8")
    return outputs


def story(logs: Logs) -> list[Block]:
    """Return the blocks of a report: how it ended, what to change, what was on, what happened, pictures, numbers."""
    happened = events(logs.scalars, ALL_KEYS)
    return [
        *_summary(logs, happened),
        *_next(logs),
        *_error(logs),
        *_configuration(logs),
        *_happened(logs, happened),
        *_pictures(logs, happened),
        *_numbers(logs),
    ]


def _summary(logs: Logs, happened: Sequence[Event]) -> list[Block]:
    length = f"{logs.steps} steps"
    updates = logs.scalars.get("trainer/updates")
    if updates:
        length += f", {updates[-1][1]:.0f} updates of the weights"
    if logs.seconds > 0:
        length += f", {_duration(logs.seconds)}"
    alarms = [event for event in happened if event.kind == "alarm"]
    if logs.health is not None:
        text = f"This run failed or was stopped: {logs.health.get('why', 'no reason was written')}"
    elif alarms:
        text = f"{len(alarms)} alarm(s) were raised: {', '.join(sorted({e.text for e in alarms}))}."
    else:
        text = "No alarm was raised, and there is no sign that the run failed."
    found: list[Block] = [Heading("How it went"), Paragraph(f"{text} It is {length} long."), *_culprit(logs)]
    ends = [(k, p) for k, p in logs.scalars.items() if p and not k.startswith(_OURS) and k != "epoch"]
    rows = tuple((key, f"{points[-1][1]:.4g}") for key, points in ends[:12])
    return [*found, Table(("measure", "at the end"), rows)] if rows else found


def _culprit(logs: Logs) -> list[Block]:
    culprit = (logs.health or {}).get("culprit")
    return [Paragraph(f"Where it came from: {culprit}")] if culprit else []


def _next(logs: Logs) -> list[Block]:
    told = [
        text
        for tag, texts in logs.texts.items()
        if tag.startswith(("collapse/", "diagnosis/")) and not _taken_back(logs, tag)
        for _, text in texts
    ]
    told += [str(text) for name in ("verdicts", "findings") for text in (logs.health or {}).get(name, [])]
    # what the doctor is not sure of, or contradicts what it is surer of, is reported below, and is not advice
    remedies = [finding.next_step for finding in ranked(_noticed(told))]
    steps = [step.strip()[:1].upper() + step.strip()[1:] + "." for remedy in remedies for step in remedy.split(";")]
    return [Heading("What to change next"), Bullets(tuple(advice(logs.scalars, steps)))]


def _taken_back(logs: Logs, tag: str) -> bool:
    """Whether a finding did not hold any more at the end: then the last value of its key is 0."""
    points = logs.scalars.get(tag) or [(0, 1.0)]
    return points[-1][1] == 0


def _noticed(texts: Sequence[str]) -> list[Finding]:
    """Return the findings and the verdicts among texts of the log, each once; a verdict is as sure as an alarm."""
    found: dict[str, Finding] = {}
    for text in texts:
        if (finding := Finding.from_text(text)) is not None:
            found.setdefault(text, finding)
        for line in re.findall(r"^.*Try: .+$", text, re.M):
            cause = re.match(r"\w+: (.+?) since step", line)
            remedy = line.split("Try: ", 1)[1].rstrip(".")
            kind = Cause.named(cause[1]) if cause else Cause.NONE
            found.setdefault(line, Finding(kind, line, 1.0, remedy, -1))
    return list(found.values())


def _error(logs: Logs) -> list[Block]:
    """Where the error comes from, where the doctor logged the losses at the end."""
    prefix = "diagnosis/training_doctor/error/"
    values = {k.removeprefix(prefix): p[-1][1] for k, p in logs.scalars.items() if k.startswith(prefix) and p}
    if not values.get("initial", 0.0) > 0 or "training" not in values:
        return []
    best, last = (values.get(name, math.nan) for name in ("validation_best", "validation"))
    parts = ErrorParts(values["initial"], values["training"], best, last)
    return [Heading("Where the error comes from"), Bullets(tuple(parts.sentences()))]


def _configuration(logs: Logs) -> list[Block]:
    rows = []
    tricks = sorted({name.split("/")[0] for name in logs.hyperparameters if re.fullmatch(r"[A-Z]\w+/\w+", name)})
    for trick in tricks:
        arguments = {k.split("/", 1)[1]: v for k, v in logs.hyperparameters.items() if k.startswith(trick + "/")}
        rows.append((trick, ", ".join(f"{k}={v}" for k, v in arguments.items() if v != "None")))
    own = [(k, v) for k, v in logs.hyperparameters.items() if k.split("/")[0] not in tricks]
    found: list[Block] = [Heading("What was on")]
    found += [Table(("trick", "arguments"), tuple(rows))] if rows else [Paragraph("No trick left its arguments.")]
    return [*found, Table(("hyperparameter", "value"), tuple(own[:_MOST_ROWS]))] if own else found


def _happened(logs: Logs, happened: Sequence[Event]) -> list[Block]:
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
    for tag, texts in logs.texts.items():
        if tag.startswith(("collapse/", "diagnosis/")) and tag not in ("diagnosis/sanity", "diagnosis/summary"):
            found += [Paragraph(f"Step {step}: {text}") for step, text in texts[-5:]]
    return found


def _merged(event: Event) -> str:
    return "" if event.kind in ("clip", "skip", "non-finite") else event.text


def _pictures(logs: Logs, happened: Sequence[Event]) -> list[Block]:
    scalars = logs.scalars

    def those(pattern: str) -> dict[str, Points]:
        return {k: p for k, p in scalars.items() if re.fullmatch(pattern, k)}

    losses = {k: p for k, p in scalars.items() if is_own_loss(k)} or those("diagnosis/training_doctor/loss")
    metrics = {k: p for k, p in scalars.items() if not k.startswith(_OURS) and not is_own_loss(k) and k != "epoch"}
    rates = those(r"schedule(/optimizer\d+)?/lr(/.*)?") or those(r"lr-.*")
    norms = those(r"grad/norm(/optimizer\d+)?")
    layers = those(r"grad/norm/(?!optimizer\d+$).*")
    found: list[Block] = [Heading("Pictures")]

    def add(name: str, caption: str, series: dict[str, Points], label: str, **how: bool) -> None:
        marked = happened if name == "loss" else ()
        if any(series.values()):
            drawn = figures.draw_lines(series, label, marked, **how)
            found.append(Picture(name, caption, figures.png(drawn)))

    caption = "The loss, and what happened: small marks for clips and skips, lines for alarms and rollbacks."
    add("loss", caption, losses, "loss", smooth=True)
    add("metrics", "The other measures of the training script.", metrics, "value")
    add("rate", "The learning rate of each parameter group.", rates, "learning rate", linear=True)
    caption = "The length of the whole gradient. Peaks are batches that pull hard; a steady rise is a warning."
    add("norm", caption, norms, "global gradient norm", smooth=True)
    if layers:
        caption = "The gradient of each parameter, dark for small. A dark band from the top is a vanishing gradient."
        found.append(Picture("layers", caption, figures.png(figures.draw_layer_norms(layers))))
    add("scale", "The loss scale of 16-bit precision; it halves when an update overflows.", those("amp/scale"), "scale")
    for detector in sorted({k.split("/")[1] for k in those(r"collapse/[^/]+/(?!alarm$).*")} - {"rollback"}):
        measures = those(rf"collapse/{re.escape(detector)}/(?!alarm$).*")
        add(detector, f"What {detector.replace('_', ' ')} watches.", measures, "value")
    for tag, image in logs.images.items():
        if tag == "grad/layers" and layers:
            continue
        found.append(Picture(tag, f"Logged while training: {tag}", image))
    return found if len(found) > 1 else []


def _numbers(logs: Logs) -> list[Block]:
    rows = []
    for key, points in sorted(logs.scalars.items()):
        finite = [v for _, v in points if math.isfinite(v)]
        if finite and not key.startswith(("grad/norm/", "grad/update_ratio/", "amp/headroom/", "amp/underflow/")):
            rows.append(
                (key, str(len(points)), *(f"{v:.4g}" for v in (points[0][1], min(finite), max(finite), points[-1][1])))
            )
    return [Heading("All numbers"), Table(("key", "values", "first", "least", "greatest", "last"), tuple(rows))]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .25rem .75rem; text-align: left; }
td { border-top: 1px solid #eee; overflow-wrap: anywhere; vertical-align: top; } figure { margin: 1.5rem 0; }
td:first-child { min-width: 9rem; }
img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; }
"""


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """Return one page without scripts that needs no other file and no network; every text is escaped.

    >>> "&lt;b&gt;" in as_html("a run", [Paragraph("<b>")])
    True
    """
    parts = [_html(block) for block in blocks]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{html.escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Table):
        header = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
        rows = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
        return f"<table><tr>{header}</tr>{''.join(rows)}</table>"
    data = base64.b64encode(block.png).decode()
    caption = html.escape(block.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def as_markdown(title: str, blocks: Sequence[Block], path: Path) -> str:
    """Return Markdown; its pictures are written into a folder beside ``path``."""
    folder = path.parent / f"{path.stem}_files"
    parts = [f"# {_plain(title)}"]
    for i, block in enumerate(blocks):
        if isinstance(block, Heading):
            parts.append(f"## {block.text}")
        elif isinstance(block, Paragraph):
            parts.append(_plain(block.text))
        elif isinstance(block, Bullets):
            parts.append("\n".join(f"- {_plain(item)}" for item in block.items))
        elif isinstance(block, Table):
            rows = [block.header, tuple("---" for _ in block.header), *block.rows]
            parts.append("\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows))
        else:
            folder.mkdir(exist_ok=True)
            name = f"{i}_{re.sub(r'[^A-Za-z0-9_-]', '_', block.name)[:60]}.png"  # a tag may hold anything
            (folder / name).write_bytes(block.png)
            parts.append(f"![{_plain(block.caption)}]({folder.name}/{name})\n\n{_plain(block.caption)}")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_<\[\]])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return text if text == "---" else _plain(text).replace("|", r"\|")
