"""Two runs side by side: how they went, their best values, what differs in their settings, and their losses."""

from __future__ import annotations

from lightning_tricks.publishing.events import events
from lightning_tricks.publishing.log_keys import is_own_loss
from lightning_tricks.report import figures
from lightning_tricks.report.about import fact_rows
from lightning_tricks.report.advice import BETTER_IS_LESS
from lightning_tricks.report.all_keys import ALL_KEYS
from lightning_tricks.report.blocks import Block, Heading, Paragraph, Picture, Table
from lightning_tricks.report.logs import Logs
from lightning_tricks.report.results import Measure, is_validation, measures, of_the_user
from lightning_tricks.report.verdict import conclude

_MOST = 40
# differ in any two runs, or say nothing of what the user chose
_NOT_SETTINGS = ("started", "versions")


def comparison(one: Logs, two: Logs, name: str, other: str) -> list[Block]:
    """Return the section that compares a run with another."""
    found: list[Block] = [Heading(f"Compared with {other}"), Paragraph(in_words(one, two, other))]
    rows = [
        (key, *(f"{m.best:.4g} at step {m.step:,}" if m else "not measured" for m in pair))
        for key, pair in _pairs(one, two).items()
    ]
    found += [Table(("best value", name, other), tuple(rows[:_MOST]))] if rows else []
    differences = settings_that_differ(one, two)
    found += (
        [Table(("setting", name, other), differences)] if differences else [Paragraph("The settings are the same.")]
    )
    losses = {
        f"{key} ({run})": points
        for run, logs in ((name, one), (other, two))
        for key, points in of_the_user(logs).items()
        if is_own_loss(key)
    }
    if losses:
        picture = figures.png(figures.draw_lines(losses, "loss", smooth=True))
        found.append(Picture("comparison", "The losses of both runs, smoothed.", picture))
    return found


def in_words(one: Logs, two: Logs, other: str) -> str:
    """Return which run was better in which measure of validation, and how the other one went."""
    conclusion = conclude(two, events(two.scalars, ALL_KEYS))
    sentences = [f"About {other}: {conclusion.title[:1].lower()}{conclusion.title[1:]}."]
    for key, (mine, its) in _pairs(one, two).items():
        if not is_validation(key) or mine is None or its is None:
            continue
        if mine.best == its.best:
            sentences.append(f"Both reach the same {key}, {mine.best:.4g}.")
            continue
        better = (mine.best < its.best) == bool(BETTER_IS_LESS.search(key))
        which = "This run is better" if better else "The other run is better"
        sentences.append(f"{which} in {key}: {mine.best:.4g} here, {its.best:.4g} there.")
    return " ".join(sentences)


def settings_that_differ(one: Logs, two: Logs) -> tuple[tuple[str, str, str], ...]:
    """Return facts and hyperparameters that are not the same in both runs; a default is left empty."""
    mine, its = ({**dict(fact_rows(logs.facts)), **logs.hyperparameters} for logs in (one, two))
    names = [name for name in dict.fromkeys((*mine, *its)) if name not in _NOT_SETTINGS]
    return tuple((n, mine.get(n, ""), its.get(n, "")) for n in names if mine.get(n) != its.get(n))[:_MOST]


def _pairs(one: Logs, two: Logs) -> dict[str, tuple[Measure | None, Measure | None]]:
    mine, its = ({m.name: m for group in measures(logs) for m in group} for logs in (one, two))
    return {name: (mine.get(name), its.get(name)) for name in dict.fromkeys((*mine, *its))}
