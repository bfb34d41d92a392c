"""What was trained, on what and with what: the facts of ``run.json``, and settings that differ from the defaults."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from lightning_tricks.report.blocks import Block, Heading, Paragraph, Table
from lightning_tricks.report.logs import Logs
from lightning_tricks.report.verdict import duration

_MOST_ROWS = 60


def about(logs: Logs) -> list[Block]:
    """Return the section on the run itself."""
    rows = tuple(fact_rows(logs.facts))
    found: list[Block] = [Heading("About this run")]
    if rows:
        found.append(Table(("", ""), rows))
    own = [(k, v) for k, v in logs.hyperparameters.items() if not _is_ours(k)]
    if own:
        found += [Paragraph("Hyperparameters of the model:"), Table(("", ""), tuple(own[:_MOST_ROWS]))]
    return [*found, *_tricks(logs)]


def fact_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts in words, those that are known.

    >>> fact_rows({"model": "Net", "parameters": 12345, "training_samples": 1000, "batches_per_epoch": 10})
    [('model', 'Net, 12,345 parameters'), ('data', '1,000 training samples, 10 batches per epoch')]
    """
    model = [str(facts["model"])] if "model" in facts else []
    model += [f"{facts['parameters']:,} parameters"] if isinstance(facts.get("parameters"), int) else []
    trained = facts.get("trained_parameters")
    model += [f"{trained:,} of them trained"] if isinstance(trained, int) and trained != facts["parameters"] else []
    samples, batches = facts.get("training_samples"), facts.get("batches_per_epoch")
    data = [f"{samples:,} training samples"] if isinstance(samples, int) else []
    data += [f"{batches:,} batches per epoch"] if isinstance(batches, int) else []
    rate = facts.get("found_rate")
    found = f"{rate:.3g}" + (", and set" if facts.get("rate_was_set") else ", not set") if rate is not None else ""
    versions = facts.get("versions")
    rows = {
        "started": _when(facts),
        "model": ", ".join(model),
        "data": ", ".join(data),
        "optimizer": "; ".join(map(str, facts.get("optimizers", []))),
        "learning rate found": found,
        "precision": str(facts.get("precision", "")),
        "device": str(facts.get("device", "")),
        "git commit": str(facts.get("commit", ""))[:12],
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else "",
    }
    return [(name, text) for name, text in rows.items() if text]


def _when(facts: dict[str, Any]) -> str:
    try:
        began = datetime.fromisoformat(str(facts["started"]))
    except (KeyError, ValueError):
        return ""
    seconds = facts.get("seconds")
    took = f", took {duration(seconds)}" if isinstance(seconds, (int, float)) else ""
    return f"{began:%d %B %Y, %H:%M} UTC{took}"


def _is_ours(name: str) -> bool:
    return name == "tricks" or re.fullmatch(r"[A-Z]\w+/\w+", name) is not None


def _tricks(logs: Logs) -> list[Block]:
    given: dict[str, list[str]] = {name: [] for name in logs.hyperparameters.get("tricks", "").split(", ") if name}
    for key, value in logs.hyperparameters.items():
        # (as the tricks log their own arguments: ``GradientClip/rule``)
        if re.fullmatch(r"[A-Z]\w+/\w+", key) and value != "None":
            trick, argument = key.split("/", 1)
            given.setdefault(trick, []).append(f"{argument}={value}")
    if not given:
        return []
    rows = tuple((trick, ", ".join(arguments) or "defaults") for trick, arguments in given.items())
    return [
        Paragraph("Callbacks of lightning_tricks, with the arguments that differ from the defaults:"),
        Table(("", ""), rows),
    ]
