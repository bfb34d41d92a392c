"""The answers of SanityCheck as one value: a table on a terminal, in Markdown and in a notebook. No Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.publishing.html import table

_COLORS = {"pass": "#1a7f37", "FAIL": "#b42318", "?": "#8a6100"}


@dataclass(frozen=True)
class CheckTable:
    """The answers of ``SanityCheck``, in the order of its experiments.

    Args:
        checks: one for each experiment.

    Example:
        >>> table = CheckTable((Check("inputs matter", False, "the loss by 0", "follow the input"),))
        >>> table.ok, [check.name for check in table.failed]
        (False, ['inputs matter'])
        >>> print(table)
        FAIL  inputs matter  the loss by 0
              -> follow the input
    """

    checks: Sequence[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks that say that the training cannot work as it is."""
        return [check for check in self.checks if check.passed is False]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{check.mark:<4}  {check.name:<{width}}  {check.evidence}".rstrip())
            lines += [f"      -> {check.fix}"] if check.fix else []
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rows = [f"| {c.name} | {c.mark} | {c.evidence} | {c.fix} |" for c in self.checks]
        return "\n".join(["| check | | what was seen | fix |", "| --- | --- | --- | --- |", *rows])

    def _repr_html_(self) -> str:
        rows = [(check.name, check.mark, check.evidence, check.fix) for check in self.checks]
        return table(("check", "", "what was seen", "fix"), rows, _COLORS)
