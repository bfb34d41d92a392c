"""What would break a later resume: a finding is what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_tricks.publishing.statement import Outcome, Stated, Statement


@dataclass(frozen=True)
class Finding(Stated):
    """Something that would break a resume.

    Args:
        what: what is wrong.
        fix: what to do about it.

    Example:
        >>> print(Finding("no checkpoint is written", "Add ModelCheckpoint()"))
        no checkpoint is written. Add ModelCheckpoint().
    """

    what: str
    fix: str

    @property
    def statement(self) -> Statement:
        """What is wrong and what to do, in the form that it shares with verdicts and answers of checks."""
        return Statement(Outcome.WARNING, self.what, remedy=self.fix)

    def __str__(self) -> str:
        return f"{self.what.rstrip('.')}. {self.fix.rstrip('.')}."


def lines(findings: Sequence[Finding]) -> str:
    """Return findings as a list for a message."""
    return "".join(f"\n- {finding}" for finding in findings)


SIGTERM = Finding(
    "a SIGTERM ends this process with exit code 0 and saves nothing by itself: a scheduler takes the run for finished",
    "Use ModelCheckpoint(save_on_exception=True), and around fit: except SystemExit as end: sys.exit(end.code or 143)",
)
