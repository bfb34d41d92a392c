"""What 16-bit arithmetic does to a run: the findings, how often each was seen, and the table of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from lightning_tricks.errors import listed
from lightning_tricks.publishing.statement import Outcome, Stated, Statement

# the most serious kinds first: tables and reports follow this order
_KINDS = {
    "forward overflow": "a module's output went beyond 65,504, the largest number of float16",
    "loss overflow": "the loss was NaN or inf although every module's output was finite",
    "backward overflow": "a gradient was not finite however small the loss scale was",
    "loss scale too large": "the scaled gradients went beyond 65,504: the GradScaler at work",
    "nonfinite input": "the batch itself held NaN or inf",
    "nonfinite weight": "a weight was NaN or inf",
    "unexplained skip": "an update was skipped, and its forward pass could not be looked at again",
    "little headroom": "a module's largest output was close to 65,504",
    "underflow": "gradients were so small that float16 loses their bits",
    "small eps": "the optimizer's eps is 0 in float16",
}


@dataclass(frozen=True)
class Finding(Stated):
    """Something that 16-bit arithmetic does to this run.

    Args:
        kind: one of ``forward overflow``, ``loss overflow``, ``backward overflow``, ``loss scale too large``,
            ``nonfinite input``, ``nonfinite weight``, ``unexplained skip``, ``little headroom``, ``underflow``,
            ``small eps``.
        module: name of the module, or of the parameter; empty where it is the whole model.
        text: what was seen.
        advice: what to do.
        step: of Lightning's loggers, when it was first seen.
        times: how often it was seen.
    """

    kind: str
    module: str
    text: str
    advice: str
    step: int
    times: int = 1

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"Finding(kind={self.kind!r}): kind must be one of {', '.join(_KINDS)}. Use one of these.")

    @property
    def ordinary(self) -> bool:
        """Whether a healthy run has it too: the loss scale is found by overflowing now and then."""
        return self.kind == "loss scale too large"

    @property
    def serious(self) -> bool:
        """Whether it is worth a warning at once."""
        return self.kind not in ("loss scale too large", "unexplained skip", "little headroom", "underflow")

    @property
    def statement(self) -> Statement:
        """What was seen and what to do, in the form that it shares with verdicts and answers of checks."""
        outcome = Outcome.GOOD if self.ordinary else Outcome.BAD if self.serious else Outcome.WARNING
        return Statement(outcome, self._what, self.text, self.advice, self.step)

    @property
    def _what(self) -> str:
        return f"{self.kind} in {self.module}" if self.module else self.kind

    def __str__(self) -> str:
        """Say it in one line.

        >>> print(Finding("forward overflow", "mlp", "its output reached inf", "Use FP32Islands(['mlp'])", 7))
        forward overflow in mlp (step 7): its output reached inf. Use FP32Islands(['mlp']).
        """
        often = f", {self.times} times" if self.times > 1 else ""
        return f"{self._what} (step {self.step}{often}): {self.text}. {self.advice}."


class Findings:
    """Collects findings; one that was there counts up, and keeps its first step.

    >>> found = Findings()
    >>> for step in (3, 5):
    ...     _ = found.add(Finding("underflow", "head", "60 % of its gradients", "Use bf16-mixed", step))
    >>> [(f.step, f.times) for f in found]
    [(3, 2)]
    """

    def __init__(self, known: Sequence[Finding] = ()) -> None:
        self._known = {(f.kind, f.module): f for f in known}

    def add(self, finding: Finding) -> bool:
        """Add one; return whether it is new."""
        key = finding.kind, finding.module
        before = self._known.get(key)
        self._known[key] = finding if before is None else replace(finding, step=before.step, times=before.times + 1)
        return before is None

    def __iter__(self) -> Iterator[Finding]:
        return iter(sorted(self._known.values(), key=lambda f: (list(_KINDS).index(f.kind), f.step)))

    def __len__(self) -> int:
        return len(self._known)


def grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Put findings of one kind with the same advice together: underflow seldom hits one module only.

    >>> [len(g) for g in grouped([Finding("underflow", name, "", "", 0) for name in "abc"])]
    [3]
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.advice), []).append(finding)
    return list(groups.values())


def islands_or_bfloat16(name: str, half: bool = True) -> str:
    """Return the advice to compute a module in float32.

    Args:
        half: whether the run computes in float16; else the advice is for a run that would.

    >>> islands_or_bfloat16("head")
    "Use FP32Islands(['head']) or precision='bf16-mixed'"
    """
    if not half:
        return f"Under 16-mixed it would need FP32Islands([{name!r}]); bf16-mixed has the range of float32"
    return f"Use FP32Islands([{name!r}]) or precision='bf16-mixed'"


def as_table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table of rich, those of one kind with the same advice in one row."""
    table = Table(title="PrecisionDoctor")
    for title in ("what", "where", "step", "times", "seen", "what to do"):
        # (a remedy is code to copy: in a narrow terminal it is broken, and never cut off)
        table.add_column(title, justify="right" if title in ("step", "times") else "left", overflow="fold")
    for same in grouped(findings):
        first = same[0]
        where = listed([each.module for each in same], 3)
        table.add_row(first.kind, where, str(first.step), str(first.times), first.text, first.advice)
    return table
