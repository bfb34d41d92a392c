"""The answers of SanityCheck as one value: a table on a terminal, in Markdown and in a notebook. No Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.publishing.statement import as_html, as_table, as_text


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
        return as_text(self.checks)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        return as_table(self.checks).markdown()

    def _repr_html_(self) -> str:
        return as_html(self.checks)
