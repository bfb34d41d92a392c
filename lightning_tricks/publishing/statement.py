"""What the pack says about a run, in one form: findings, answers of checks and verdicts are all told as statements.

Each kind of statement is a class of its own with fields of its own; ``Stated.statement`` says what they have in common,
and the functions here write statements for a terminal, as Markdown and for a notebook. Strings are escaped in HTML.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from rich.markup import escape
from rich.table import Table as ConsoleTable

from lightning_tricks.publishing import html
from lightning_tricks.publishing.trackers import Table

COLUMNS = ("check", "result", "what was seen", "fix")


class Outcome(Enum):
    """How good or bad a statement is.

    Example:
        >>> Outcome.BAD.mark, Outcome("good").mark
        ('FAIL', 'pass')
    """

    GOOD = "good"
    RUNNING = "running"  # not known yet
    UNKNOWN = "unknown"
    WARNING = "warning"
    BAD = "bad"

    @property
    def mark(self) -> str:
        """A word or sign for a table."""
        return _LOOKS[self.value][0]

    @property
    def color(self) -> str:
        """For HTML; readable on white."""
        return _LOOKS[self.value][1]

    @property
    def style(self) -> str:
        """For a terminal, in the words of rich."""
        return _LOOKS[self.value][2]


_LOOKS = {
    "good": ("pass", "#1a7f37", "green"),
    "running": ("...", "#0969da", "blue"),
    "unknown": ("?", "#8a6100", "yellow"),
    "warning": ("!", "#9a6700", "yellow"),
    "bad": ("FAIL", "#b42318", "bold red"),
}


@dataclass(frozen=True)
class Statement:
    """What a finding, the answer of a check and a verdict have in common.

    Args:
        outcome: how good or bad it is.
        title: what it is about: the name of a check, of a cause, of a detector with its cause.
        evidence: what was seen, with numbers.
        remedy: what to do; empty where nothing has to be done.
        step: of Lightning's loggers, when it was seen first; None where it belongs to no step.
    """

    outcome: Outcome
    title: str
    evidence: str = ""
    remedy: str = ""
    step: int | None = None

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Title, mark, evidence and remedy: a row under ``COLUMNS``."""
        return self.title, self.outcome.mark, self.evidence, self.remedy


class Stated(ABC):
    """Something that is told as a statement. Its ``str`` is one line of text, which logs and reports keep."""

    @property
    @abstractmethod
    def statement(self) -> Statement:
        """What it has in common with everything else that the pack says."""

    def _repr_html_(self) -> str:
        return html.note(str(self), self.statement.outcome.color)


def as_text(stated: Iterable[Stated]) -> str:
    """Return aligned lines for a terminal, each remedy in full below what it is for; empty where nothing is said."""
    statements = [each.statement for each in stated]
    width = max((len(s.title) for s in statements), default=0)
    lines = []
    for s in statements:
        lines.append(f"{s.outcome.mark:<4}  {s.title:<{width}}  {s.evidence}".rstrip())
        lines += [f"      -> {s.remedy}"] if s.remedy else []
    return "\n".join(lines)


def as_table(stated: Iterable[Stated]) -> Table:
    """Return the statements as rows, for loggers and Markdown."""
    return Table(COLUMNS, [each.statement.cells for each in stated])


def as_console_table(title: str, stated: Iterable[Stated]) -> ConsoleTable:
    """Return the statements as a table of rich with colours."""
    table = ConsoleTable(title=title)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")  # (a fix is code to copy, and never cut off)
    for each in stated:
        name, mark, evidence, remedy = map(escape, each.statement.cells)
        table.add_row(name, f"[{each.statement.outcome.style}]{mark}[/]", evidence, remedy)
    return table


def as_html(stated: Iterable[Stated]) -> str:
    """Return the statements as a table for a notebook."""
    colors = {outcome.mark: outcome.color for outcome in Outcome}
    return html.table(COLUMNS, as_table(stated).cells, colors)
