"""``docs/claims.md`` and the headline tables of ``docs/benchmarks``, made from committed results: what the literature says, what we measured.

``python -m benchmarks claims`` writes both. Nothing in them is typed in by hand but the claims themselves.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy import BITS_MARGIN, MARGIN
from benchmarks.precision_report import baseline, hardware, interval, ratio
from benchmarks.results import FOLDER, is_main, table
from benchmarks.settings import BASES
from benchmarks.tricks import METHOD, SHARES, rows_of, verdict

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "claims.md"
HEADLINES = tuple(ROOT / "docs" / "benchmarks" / name for name in ("precision.md", "literature.md"))
_BLOCK = re.compile(r"(<!-- precision: .*?-->\n).*?(<!-- /precision -->)", re.S)
_TRICKS = re.compile(r"(<!-- tricks: .*?-->\n).*?(<!-- /tricks -->)", re.S)
_CONTROLS = ("data_bound",)
NO_GAIN = 1.05  # behind a slow loader: what counts as no speed-up
Measured = tuple[str, str]  # what was measured, and the verdict


@dataclass(frozen=True)
class Claim:
    """What textbooks and blog posts say.

    Args:
        text: the claim.
        measured: result -> what was measured and the verdict; None where this result says nothing about it.
    """

    text: str
    measured: Callable[[dict[str, Any]], Measured | None]


def newest() -> list[dict[str, Any]]:
    """Return the newest complete precision result of each profile, GPU first."""
    found: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {}
    for path in FOLDER.glob("*.json"):
        result = json.loads(path.read_text())
        if result.get("table") != "precision" or not result.get("complete") or result["profile"] == "quick":
            continue
        if result.get("only") or "--only" in result["command"]:  # some workloads do not speak for all
            continue
        key = (result["date"], path.name)
        if result["profile"] not in found or key > found[result["profile"]][0]:
            found[result["profile"]] = key, {**result, "file": path.name}
    return [found[profile][1] for profile in ("gpu", "cpu") if profile in found]


def newest_tricks() -> list[dict[str, Any]]:
    """Return the complete results of the tricks table: on a GPU and on a CPU, where they are there.

    ``tricks-cpu.json`` holds all studies; those in a ``tricks-cpu-NAME.json`` were measured again, and take their place.
    """
    found = [{**json.loads(path.read_text()), "file": path.name} for path in sorted(FOLDER.glob("tricks-*.json"))]
    found = [result for result in found if not result["quick"]]
    whole = [result for result in found if Path(result["file"]).stem.count("-") == 1]
    for result in whole:
        prefix = Path(result["file"]).stem + "-"
        again = {
            study["name"]: {**study, "measured": part}
            for part in found
            if part["file"].startswith(prefix)
            for study in part["studies"]
        }
        result["studies"] = [again.get(study["name"], study) for study in result["studies"]]
    return whole


def _cells(result: dict[str, Any], *precisions: str) -> list[dict[str, Any]]:
    return [
        c
        for c in result["cells"]
        if c["status"] == "ok" and is_main(c) and c["precision"] in precisions and c["workload"] not in _CONTROLS
    ]


def speed(result: dict[str, Any]) -> Measured | None:
    """Mixed precision is 1.7 to 2 times as fast."""
    cells = _cells(result, "bf16-mixed", "16-mixed")
    if not cells:
        return None
    said = []
    for base in BASES:
        ratios = [c[f"faster_than_{base}"] for c in cells if f"faster_than_{base}" in c]
        if ratios:
            values = [r["value"] for r in ratios]
            sure = sum(r["low"] > 1 for r in ratios)
            slower = sum(r["high"] < 1 for r in ratios)
            said.append(
                f"over {base}: {min(values):.2f} to {max(values):.2f}, median {statistics.median(values):.2f}; "
                f"faster in {sure} of {len(values)}, slower in {slower}, no claim in {len(values) - sure - slower}"
            )
    values = [c[f"faster_than_{baseline(cells)}"]["value"] for c in cells]
    reached = sum(v >= 1.7 for v in values)
    verdict = f"reached in {reached} of {len(values)} cells" if reached else "not reached here"
    return "; ".join(said), verdict


def memory(result: dict[str, Any]) -> Measured | None:
    """Mixed precision takes 50 to 60 % of the memory."""
    cells = _cells(result, "bf16-mixed", "16-mixed")
    if not cells:
        return None
    base = baseline(cells)
    shares = {f"{c['workload']} {c['precision']}": c[f"memory_of_{base}"] for c in cells if f"memory_of_{base}" in c}
    shown = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: item[1]))
    reached = sum(share <= 0.605 for share in shares.values())
    return (
        f"of {base}: {shown}",
        f"reached in {reached} of {len(shares)} cells: where activations, not weights, fill it",
    )


def accuracy(result: dict[str, Any]) -> Measured | None:
    """The accuracy stays the same, or rises."""
    rows = [
        (t, r) for t in result.get("accuracy", []) for r in t["rows"] if "verdict" in r and "mixed" in r["precision"]
    ]
    rows += [
        ({"task": "bits per byte"}, {**r, "difference": r["more_bits_percent"]})
        for r in result.get("bytes", {}).get("rows", [])
        if "verdict" in r and "mixed" in r["precision"]
    ]
    if not rows:
        return None
    shown = "; ".join(
        f"{t['task']}, {r['precision']}: {interval(r['difference'])} {'%' if t['task'].startswith('bits') else 'points'}, "
        f"{r['verdict']}"
        for t, r in rows
    )
    verdicts = {r["verdict"] for _, r in rows}
    lengths = "; ".join(length for length in (_trained(result), _updates(result)) if length)
    within = f"within {MARGIN} points of accuracy and {BITS_MARGIN:g} % of the bits per byte ({lengths})"
    text = {"EQUIVALENT": f"the same {within}; a gain of 0.2 points is noise"}
    return shown, text.get(verdicts.pop(), "see left") if len(verdicts) == 1 else f"see left; margins: {within}"


def _trained(result: dict[str, Any]) -> str:
    return ", ".join(f"{t['task']} after {t['epochs']} epochs, {t['seeds']} seeds" for t in result.get("accuracy", []))


def _updates(result: dict[str, Any]) -> str:
    found = result.get("bytes")
    return f"bits after {found['steps']} updates, {found['seeds']} seeds" if found else ""


def pure_half(result: dict[str, Any]) -> Measured | None:
    """Pure 16 bit takes half the memory. The literature says float16; what is measured here is bfloat16."""
    cells = [c for c in _cells(result, "bf16-true") if "memory_of_ieee-fp32" in c]
    if not cells:
        return None
    shares = [c["memory_of_ieee-fp32"] for c in cells]
    trained = [
        r for t in result.get("accuracy", []) for r in t["rows"] if r["precision"] == "bf16-true" and "verdict" in r
    ]
    more = "".join(f"; accuracy {interval(r['difference'])} points, {r['verdict']}" for r in trained)
    bits = [r for r in result.get("bytes", {}).get("rows", []) if r["precision"] == "bf16-true" and "verdict" in r]
    more += "".join(f"; bits per byte {interval(r['more_bits_percent'])} % more, {r['verdict']}" for r in bits)
    verdict = "holds for bfloat16" if all(0.45 <= s <= 0.55 for s in shares) else "about half, for bfloat16"
    worse = [r for r in bits if r["more_bits_percent"]["low"] > 0]
    verdict += "; it trains worse" if worse else ""
    return (
        f"bf16-true: {min(shares):.0%} to {max(shares):.0%} of ieee-fp32{more}",
        f"{verdict}; float16-true was not measured",
    )


def optimizers(result: dict[str, Any]) -> Measured | None:
    """A fused optimizer is faster than foreach, and that than a loop."""
    rows = result.get("optimizers")
    if not rows:
        return None
    shown, holds = [], 0
    for r in rows:
        loop, each, fused = (r[k]["milliseconds"] for k in ("forloop", "foreach", "fused"))
        holds += loop > each > fused
        shown.append(f"{r['optimizer']} {r['tensors']} x {r['elements']:,}: {loop:.2f} / {each:.2f} / {fused:.2f} ms")
    best = sum(min(r[k]["milliseconds"] for k in ("forloop", "foreach")) > r["fused"]["milliseconds"] for r in rows)
    return "; ".join(shown), f"the whole order in {holds} of {len(rows)}; fused is the fastest in {best} of {len(rows)}"


def batch_norm(result: dict[str, Any]) -> Measured | None:
    """BatchNorm sometimes has trouble with 16 bit."""
    rows = [r for t in result.get("accuracy", []) if t["task"] == "digits" for r in t["rows"] if "verdict" in r]
    cells = [c for c in _cells(result, "bf16-mixed", "16-mixed", "bf16-true") if c["workload"].startswith("resnet")]
    if not rows or not cells:
        return None
    shown = "; ".join(f"{r['precision']}: {interval(r['difference'])} points, {r['verdict']}" for r in rows)
    cosines = ", ".join(f"{c['workload']} {c['precision']} {c['gradient_cosine']:.2f}" for c in cells)
    text = f"a CNN with BatchNorm on digits, {shown}. Cosine of the first gradient to float32's: {cosines}"
    same = all(r["verdict"] == "EQUIVALENT" for r in rows)
    verdict = "not seen in the accuracy; the first gradient of deep networks with BatchNorm does change"
    return text, verdict if same else "see left"


def data_bound(result: dict[str, Any]) -> Measured | None:
    """There is no speed-up where the data loader is the bottleneck."""
    found = {
        (c["workload"], c["precision"]): c
        for c in result["cells"]
        if c["status"] == "ok" and is_main(c) and c["precision"] in ("bf16-mixed", "16-mixed")
    }
    said = []
    holds = True
    for (workload, precision), cell in found.items():
        free = found.get(("resnet18", precision))
        base = baseline([cell])
        if workload == "data_bound" and free is not None and f"faster_than_{base}" in cell:
            own = cell[f"faster_than_{base}"]
            # equivalence: the whole interval within the margin (the noise of the store itself included)
            holds = holds and own["low"] >= 1 / NO_GAIN and own["high"] <= NO_GAIN
            said.append(
                f"{precision} over {base}: {ratio(free[f'faster_than_{base}'])} with data in memory, {interval(own)} "
                "behind a store that takes 2.5 times a step's time"
            )
    margin = f"within {NO_GAIN - 1:.0%} of no change"
    return (
        ("; ".join(said), f"holds: {margin}" if holds else f"not shown: an interval is not {margin}") if said else None
    )


def pack(result: dict[str, Any]) -> Measured | None:
    """Callbacks that watch and clip cost nothing that one notices (our own claim)."""
    costs = {c["workload"]: c["pack_cost"] for c in result["cells"] if "pack_cost" in c}
    if not costs:
        return None
    shown = ", ".join(f"{name} {interval(c, '{:.3f}')}" for name, c in costs.items())
    reached = sum(c["high"] <= 1.01 for c in costs.values())
    return (
        f"five callbacks over none: {shown}",
        f"at most 1 % by the interval's upper limit in {reached} of {len(costs)}",
    )


CLAIMS = (
    Claim("Mixed precision is 1.7 to 2 times as fast.", speed),
    Claim("It takes 50 to 60 % of the memory.", memory),
    Claim("The accuracy stays the same, or rises a little (92.1 to 92.3 %).", accuracy),
    Claim("Pure 16-bit training takes half of the memory.", pure_half),
    Claim("An optimizer step is faster with foreach than in a loop, and fastest fused.", optimizers),
    Claim("BatchNorm sometimes has trouble with 16 bit.", batch_norm),
    Claim("There is no speed-up where the data loader is the bottleneck.", data_bound),
    Claim("The pack's callbacks cost at most 1 % (our own goal).", pack),
)


def page(results: list[dict[str, Any]], tricks: Sequence[dict[str, Any]] = ()) -> str:
    """Return ``docs/claims.md``."""
    lines = [
        "# The literature's claims, measured",
        "",
        "Made from `benchmarks/results` by `python -m benchmarks claims`; nothing is typed in by hand. A ratio is given with its",
        "95 % interval, and nothing is claimed where that contains 1. `ieee-fp32` and `tf32` are different baselines: out of the",
        "box torch multiplies matrices in the one and convolves in the other, and most published speed-ups do not say which.",
    ]
    for result in results:
        lines += ["", f"- **{result['profile']}**: {hardware(result)}, {result['date']}, commit {result['environment']['commit']}: "
                      f"`{result['command']}`, [{result['file']}](../benchmarks/results/{Path(result['file']).stem}.md)"]  # fmt: skip
        pictures = (FOLDER / f"{Path(result['file']).stem}_{kind}.png" for kind in ("speed", "memory", "accuracy"))
        lines += ["", *(f"![{p.stem}](../benchmarks/results/{p.name})" for p in pictures if p.exists())]
    missing = {"gpu", "cpu"} - {r["profile"] for r in results}
    if "gpu" in missing:
        lines += [
            "",
            "No GPU was measured yet: the figures below are a CPU's, where bfloat16 is the only 16-bit arithmetic.",
        ]
    for claim in CLAIMS:
        rows = [[r["profile"], *found] for r in results if (found := claim.measured(r)) is not None]
        lines += [
            "",
            f"## {claim.text}",
            "",
            table(["where", "measured", "verdict"], rows) if rows else "Not measured yet.",
        ]
    for result in tricks:
        lines += ["", *_tricks(result)]
    return "\n".join(lines) + "\n"


def _tricks(result: dict[str, Any]) -> list[str]:
    where, stem = result["environment"], Path(result["file"]).stem
    lines = [
        f"# Training tricks: {stem}",
        "",
        f"{where['gpu'] or where['cpu']}, torch {where['torch']}, {result['seeds']} seeds, commit {where['commit']}: "
        f"`{result['command']}`, [{result['file']}](../benchmarks/results/{stem}.md). {METHOD}",
        "",
        f"![{stem}](../benchmarks/results/{stem}.png)",
    ]
    for study in result["studies"]:
        header, rows = rows_of(study)
        lines += ["", f"## {study['question'].capitalize()}", "", f"The literature: {study['literature']}.", ""]
        lines += [f"Here: {study['setting']}.", ""]
        if "measured" in study:
            part, found = study["measured"], study["measured"]["environment"]
            lines += [
                f"Measured again: {found['gpu'] or found['cpu']}, torch {found['torch']}, commit {found['commit']}: "
                f"`{part['command']}`, [{part['file']}](../benchmarks/results/{Path(part['file']).stem}.md).",
                "",
            ]
        lines.append(table(header, rows))
    return lines


def tricks_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the headline table of training tricks: of each study the arm that gained most; else that differs most."""
    parts = []
    for result in results:
        rows = []
        for study in result["studies"]:
            sign = 1 if study["higher"] else -1
            arms = {name: arm for name, arm in study["arms"].items() if arm["difference"] is not None}
            gain = {name: sign * arm["difference"][0] for name, arm in arms.items()}
            better = [name for name in arms if verdict(study, name) == "better"]
            best = max(better, key=gain.__getitem__) if better else max(arms, key=lambda name: abs(gain[name]))
            header, shown = rows_of(study)
            difference, judged = next(row for row in shown if row[0] == best)[-2:]
            unit = header[-2].split(":")[0] + (" (points)" if study["measure"] in SHARES else "")
            rows.append(
                [study["question"], study["literature"], best, f"{unit} {difference}", judged.split(" than ")[0]]
            )
        where = result["environment"]
        head = ["question", "literature", "arm", "difference to its baseline [95 %]", "verdict"]
        text = f"{where['gpu'] or where['cpu']}, {result['seeds']} seeds; `{result['command']}`:"
        parts.append(f"{text}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def headline(results: list[dict[str, Any]]) -> str:
    """Return the headline table of precisions."""
    parts = []
    for result in results:
        bases = [b for b in BASES if any(f"faster_than_{b}" in c for c in _cells(result, "bf16-mixed"))]
        rows = []
        for c in result["cells"]:
            if c["status"] == "ok" and is_main(c) and "mixed" in c["precision"]:
                shares = " / ".join(f"{c[f'memory_of_{b}']:.0%}" for b in bases)
                cost = interval(c.get("pack_cost"), "{:.3f}")
                rows.append([c["text"], c["precision"], *(ratio(c[f"faster_than_{b}"]) for b in bases), shares, cost])
        header = ["workload", "precision", *(f"speed over {b} [95 %]" for b in bases), f"memory of {' / '.join(bases)}"]
        parts.append(
            f"{hardware(result)}; `{result['command']}`:\n\n{table([*header, 'the pack over none [95 %]'], rows)}"
        )
    return "\n\n".join(parts)


def with_headline(page: str, results: list[dict[str, Any]], tricks: Sequence[dict[str, Any]] = ()) -> str:
    """Return a page with its headline tables renewed."""
    page = _BLOCK.sub(lambda m: f"{m[1]}\n{headline(results)}\n\n{m[2]}", page)
    return _TRICKS.sub(lambda m: f"{m[1]}\n{tricks_table(tricks)}\n\n{m[2]}", page) if tricks else page


def main() -> int:
    """Write the page and the headline tables."""
    results = newest()
    if not results:
        raise SystemExit(
            "claims: benchmarks/results holds no complete precision result. Run: python -m benchmarks run precision"
        )
    tricks = newest_tricks()
    PAGE.write_text(page(results, tricks))
    for path in HEADLINES:
        path.write_text(with_headline(path.read_text(), results, tricks))
    written = ", ".join(str(path.relative_to(ROOT)) for path in (PAGE, *HEADLINES))
    print(f"written: {written} ({', '.join(r['file'] for r in results)})")
    return 0
