"""What the runs of the collapse benchmark say: found, false alarms, delay, cause and advice, with intervals by scenario.

Seeds of one scenario are not independent, so intervals count scenarios: a failing one is found when it is found with
every seed, and a healthy one counts as alarmed when any of its seeds is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from scipy.stats import beta

from benchmarks.models.scenario import SANITY
from benchmarks.peers import PEERS, PUBLISHED
from benchmarks.results import table
from lightning_tricks.detection.causes import Rate, kind_of

Row = dict[str, Any]

OURS = "lightning_tricks"
METHOD = (
    "Each scenario is a small training of about a second. Whether a run fails is decided by a score of its own on data "
    "that training has not seen, never by a detector. The half of a scenario is decided by a hash of its name; thresholds "
    "were tuned on `develop` only. Found: the first alarm comes at or after the onset of the failure, or, where the "
    "failure is there from the start, SanityCheck fails. Any alarm in a healthy run is a false one. Delay: updates from "
    "the onset to the alarm, over those from the onset to the end. Cause: what the first alarm (or another of the same "
    "step) or a failed row of SanityCheck names is one of the causes that were written down for the scenario. All "
    "detectors that fit the kind of training are attached with their defaults, but for 40 checks in a run. Intervals: "
    "Clopper-Pearson, 95 %, by scenario: a failing scenario counts as found if it is found with every seed, a healthy one "
    "as alarmed if it is with any. Rescue: the failing training again with action=Rollback(), its score against that of "
    "its healthy twin."
)


def interval(hits: int, total: int) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share, 95 %.

    >>> [round(x, 3) for x in interval(54, 54)]
    [0.934, 1.0]
    """
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, total - hits + 1))
    high = 1.0 if hits == total else float(beta.ppf(0.975, hits + 1, total - hits))
    return low, high


def shown(hits: int, total: int) -> str:
    """Return ``hits/total`` with the interval.

    >>> shown(9, 10)
    '9/10 [0.555, 0.997]'
    """
    if not total:
        return "-"
    low, high = interval(hits, total)
    return f"{hits}/{total} [{low:.3f}, {high:.3f}]"


# -- one run ----------------------------------------------------------------------------------------------------------


def as_labelled(row: Row) -> bool:
    """Whether the score of a run agrees with what its scenario was written to be."""
    if row["passes"] is None or row["score"] is None:
        return True
    return bool((row["score"] >= row["passes"]) != row["failing"])


def first_alarm(row: Row, tool: str) -> float | None:
    """Return the step of a tool's first alarm."""
    if tool == OURS:
        return min((a[1] for a in row["alarms"]), default=None)
    found: float | None = row["peers"][tool]
    return found


def alarm_found(row: Row, tool: str = OURS) -> bool:
    """Whether a tool's first alarm comes at or after the onset."""
    step = first_alarm(row, tool)
    return step is not None and step >= row["onset"]


def noticed(row: Row) -> bool:
    """Whether an alarm or, of a failure that is there from the start, a failed row of SanityCheck tells of it."""
    return alarm_found(row) or (row["onset"] == 0 and bool(row["sanity_failed"]))


def delay(row: Row, tool: str = OURS) -> float | None:
    """Return the share of the failing part that went by before the alarm."""
    step = first_alarm(row, tool)
    return None if step is None or step < row["onset"] else (step - row["onset"]) / (row["steps"] - row["onset"])


def cause_right(row: Row) -> bool:
    """Whether one of the first alarms, or a failed row of SanityCheck, names a cause that was written down."""
    first = first_alarm(row, OURS)
    named = any(a[3] for a in row["alarms"] if a[1] == first)
    return named or any(SANITY + name in row["causes"] for name in row["sanity_failed"])


def contradicts(row: Row) -> bool:
    """Whether the advice at the end says both to raise and to lower the rate."""
    return {kind_of(kind).rate for kind in row["findings"]} >= {Rate.HIGHER, Rate.LOWER}


def in_peace(row: Row) -> bool:
    """Whether nothing at all was said: no alarm, no failed row, no advice."""
    return not row["alarms"] and not row["sanity_failed"] and not row["findings"]


# -- many -------------------------------------------------------------------------------------------------------------


def by_scenario(rows: Sequence[Row], holds: Callable[[Row], bool], how: Callable[[Iterable[bool]], bool]) -> int:
    """Return for how many scenarios a property holds: for ``all`` or for ``any`` of their runs."""
    return sum(how(holds(r) for r in rows if r["scenario"] == name) for name in {r["scenario"] for r in rows})


def shares(rows: Sequence[Row], holds: Callable[[Row], bool], how: Callable[[Iterable[bool]], bool]) -> str:
    """Return a share of scenarios with its interval, and that of runs."""
    count = len({r["scenario"] for r in rows})
    return f"{shown(by_scenario(rows, holds, how), count)}; runs {sum(map(holds, rows))}/{len(rows)}" if rows else "-"


def parted(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return failing and healthy runs; those whose score denies the label are in neither."""
    sure = [r for r in rows if as_labelled(r)]
    return [r for r in sure if r["failing"]], [r for r in sure if not r["failing"]]


def summary(rows: Sequence[Row]) -> str:
    """Return the table of what the pack says about one half."""
    bad, good = parted(rows)
    alarmed = [r for r in bad if noticed(r)]
    delays = [d for r in bad if (d := delay(r)) is not None]
    named = [r for r in alarmed if r["scenario"] not in {q["scenario"] for q in alarmed if not cause_right(q)}]
    count = len({r["scenario"] for r in alarmed})
    causes = (
        f"{shown(len({r['scenario'] for r in named}), count)}; runs {sum(map(cause_right, alarmed))}/{len(alarmed)}"
    )
    lines = [
        ["failing: noticed, by an alarm or by SanityCheck", shares(bad, noticed, all)],
        ["failing: found by a running detector", shares(bad, alarm_found, all)],
        ["failing: right cause, of those noticed", causes],
        ["failing: median delay of a running detector", f"{statistics.median(delays):.0%}" if delays else "-"],
        ["healthy: a detector alarmed", shares(good, lambda r: bool(r["alarms"]), any)],
        ["healthy: SanityCheck failed", shares(good, lambda r: bool(r["sanity_failed"]), any)],
        ["healthy: advice that contradicts itself", shares(good, contradicts, any)],
        ["healthy: nothing was said at all", shares(good, in_peace, all)],
    ]
    return table(["", "scenarios"], lines)


def peers(rows: Sequence[Row]) -> str:
    """Return the table of all tools; by alarms alone, since the others have no check before the first step."""
    bad, good = parted(rows)
    lines = []
    for tool in (OURS, *PEERS):
        delays = [d for r in bad if alarm_found(r, tool) and (d := delay(r, tool)) is not None]
        lines.append(
            [
                tool,
                shares(bad, lambda r, t=tool: alarm_found(r, t), all),  # type: ignore[misc]
                shares(good, lambda r, t=tool: first_alarm(r, t) is not None, any),  # type: ignore[misc]
                f"{statistics.median(delays):.0%}" if delays else "-",
            ]
        )
    return table(["tool", "failing scenarios found", "healthy scenarios alarmed", "median delay"], lines)


def families(rows: Sequence[Row]) -> str:
    """Return a line for each family."""
    lines = []
    for family in sorted({r["family"] for r in rows}):
        bad, good = parted([r for r in rows if r["family"] == family])
        lines.append(
            [
                family or "older",
                f"{sum(map(noticed, bad))}/{len(bad)}",
                f"{sum(noticed(r) and cause_right(r) for r in bad)}/{sum(map(noticed, bad))}",
                f"{sum(bool(r['alarms']) for r in good)}/{len(good)}",
                f"{sum(bool(r['sanity_failed']) for r in good)}/{len(good)}",
            ]
        )
    header = [
        "family",
        "failing runs noticed",
        "right cause",
        "healthy runs alarmed",
        "healthy runs SanityCheck failed",
    ]
    return table(header, lines)


def detectors(rows: Sequence[Row]) -> str:
    """Return a line for each detector."""
    bad, good = parted(rows)
    lines = []
    for name in sorted({a[0] for r in rows for a in r["alarms"]}):
        its = [r for r in bad if any(a[0] == name for a in r["alarms"])]
        right = sum(next(a[3] for a in r["alarms"] if a[0] == name) for r in its)
        false = sum(any(a[0] == name for a in r["alarms"]) for r in good)
        lines.append([name, str(len(its)), str(right), str(false)])
    header = ["detector", "failing runs with its alarm", "with a right cause", "healthy runs with its alarm"]
    return table(header, lines)


def rescues(result: dict[str, Any], half: str) -> str:
    """Return the table of trainings that were tried again with a rollback; empty where there are none."""
    some = [r for r in result["rescues"] if r["half"] == half]
    scores = {(r["scenario"], r["seed"]): r for r in result["runs"]}
    lines = []
    for name in dict.fromkeys(r["scenario"] for r in some):
        own = [r for r in some if r["scenario"] == name]
        alone = [scores[name, r["seed"]]["score"] for r in own]
        cells = (alone, [r["rescued"] for r in own], [r["healthy"] for r in own])
        texts = [" ".join("-" if x is None else f"{x:.2f}" for x in cell) for cell in cells]
        lines.append([name, *texts, f"{sum(map(rescued, own))} of {len(own)}"])
    if not lines:
        return ""
    header = ["failing training", "left alone", "with Rollback()", "healthy twin", "rescued"]
    return f"{table(header, lines)}\n\nRescued: {shares(some, rescued, all)}.\n"


def rescued(row: Row) -> bool:
    """Whether the score reaches the scenario's own bound, or the healthy twin's but for 0.02."""
    if row["passes"] is not None:
        return bool(row["rescued"] >= row["passes"])
    return bool(row["rescued"] >= row["healthy"] - 0.02)


def judged_wrongly(row: Row) -> bool:
    """Whether a run is a miss, a false alarm or a false FAIL."""
    return not noticed(row) if row["failing"] else bool(row["alarms"] or row["sanity_failed"])


def report(result: dict[str, Any]) -> str:
    """Return the Markdown."""
    parts = [f"# Collapse and failing trainings\n\n{METHOD}\n"]
    for half in dict.fromkeys(r["half"] for r in result["runs"]):
        rows = [r for r in result["runs"] if r["half"] == half]
        names = {r["scenario"] for r in rows}
        parts.append(f"## {half}: {len(names)} scenarios, {len(rows)} runs\n\n{summary(rows)}\n")
        parts.append(f"### {half}: beside the rules of other tools\n\n{peers(rows)}\n")
        parts.append(f"### {half}: families\n\n{families(rows)}\n")
        parts.append(f"### {half}: each detector\n\n{detectors(rows)}\n")
        again = rescues(result, half)
        parts += [f"### {half}: rescue by rollback\n\n{again}"] if again else []
        wrong = [r for r in rows if as_labelled(r) and judged_wrongly(r)]
        told = [f"- {r['scenario']}, seed {r['seed']}: {r['alarms'] or 'no alarm'} {r['sanity_failed']}" for r in wrong]
        unnamed = [r for r in rows if as_labelled(r) and r["failing"] and noticed(r) and not cause_right(r)]
        told += [f"- {r['scenario']}, seed {r['seed']}: another cause: {r['alarms'][:1]}" for r in unnamed]
        denied = [r for r in rows if not as_labelled(r)]
        told += [f"- {r['scenario']}, seed {r['seed']}: left out, its score is {r['score']:.3f}" for r in denied]
        parts.append(f"### {half}: wrong\n\n" + ("\n".join(told) or "None.") + "\n")
    parts.append(f"{PUBLISHED}\n\nThe rules of others are emulations of their documented defaults.\n")
    machine = ", ".join(f"{k} {v}" for k, v in result["environment"].items() if v and k != "uncommitted_changes")
    parts.append(f"`{result['command']}`: {result['seconds']:.0f} s with {result['workers']} process(es), {machine}.\n")
    return "\n".join(parts)
