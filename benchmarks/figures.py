"""Pictures and TensorBoard logs of a precision result."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.precision_report import baseline, hardware
from benchmarks.results import is_main

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    "ieee-fp32": "#4c566a",
    "tf32": "#8a6fb0",
    "bf16-mixed": "#2a7f9e",
    "16-mixed": "#c46a2f",
    "bf16-true": "#5a9367",
}
WIDTH = 5.4  # inches: legible on a telephone, 400 pixels wide
LONGEST_LINE = 58  # characters of a title


def draw(result: dict[str, Any], path: Path) -> list[Path]:
    """Write the pictures beside the JSON file and return their paths."""
    out = []
    for kind, figure in pictures(result).items():
        out.append(path.with_name(f"{path.stem}_{kind}.png"))
        figure.savefig(out[-1])
    return out


def pictures(result: dict[str, Any]) -> dict[str, Figure]:
    """Return the pictures by what they show: speed, memory, accuracy; without what was not measured."""
    cells = [c for c in result["cells"] if c["status"] == "ok" and is_main(c)]
    out = {}
    if cells:
        base = baseline(cells)
        title, unit = f"Speed over {base}, with 95 % intervals (1 = as fast)", f"times as fast as {base}"
        out["speed"] = _bars(result, cells, title, unit, f"faster_than_{base}", 1.0)
        title = f"Peak memory of a step, % of {base}"
        out["memory"] = _bars(result, cells, title, "%", f"memory_of_{base}", 100.0)
    if any(len(t["rows"]) > 1 and t["seeds"] > 1 for t in result.get("accuracy", [])):
        out["accuracy"] = _accuracy(result)
    return out


def _figure(title: str, result: dict[str, Any], height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=180, layout="constrained")
    axes = figure.add_subplot()
    lines = [textwrap.fill(text, LONGEST_LINE) for text in (title, hardware(result))]
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, horizontalalignment="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(result: dict[str, Any], cells: list[dict[str, Any]], title: str, unit: str, key: str, scale: float) -> Figure:
    """One bar per workload and precision, with its interval where the value has one; a line at the baseline's."""
    names = list(dict.fromkeys(c["workload"] for c in cells))
    precisions = list(dict.fromkeys(c["precision"] for c in cells))
    figure, axes = _figure(title, result, 1.8 + 0.55 * len(names))
    width = 0.8 / max(1, len(precisions))
    for j, precision in enumerate(precisions):
        for cell in (c for c in cells if c["precision"] == precision and key in c):
            found, y = cell[key], names.index(cell["workload"]) + (j - len(precisions) / 2 + 0.5) * width
            label = precision if cell["workload"] == names[0] else None
            value = found["value"] if isinstance(found, dict) else found
            axes.barh(y, scale * value, width * 0.9, color=COLORS[precision], label=label)
            if isinstance(found, dict):
                error = [[value - found["low"]], [found["high"] - value]]
                axes.errorbar(value, y, xerr=error, color="black", linewidth=1, capsize=2)
    axes.axvline(scale, color="black", linewidth=0.8, linestyle="--")
    _finish(axes, names, unit)
    return figure


def _accuracy(result: dict[str, Any]) -> Figure:
    rows = [
        (f"{t['task']}:\n{r['precision']}", r, t)
        for t in result["accuracy"]
        for r in t["rows"]
        if "difference" in r
    ]  # fmt: skip
    base = rows[0][1]["base"]
    figure, axes = _figure(
        f"Accuracy against {base}: mean paired difference, 90 % interval", result, 1.8 + 0.55 * len(rows)
    )
    axes.axvspan(-0.5, 0.5, color="#dfe8dc", label="margin of equivalence, 0.5 points")
    for y, (_, row, _) in enumerate(rows):
        d = row["difference"]
        color = COLORS[row["precision"]]
        axes.errorbar(
            d["value"], y, xerr=[[d["value"] - d["low"]], [d["high"] - d["value"]]], fmt="o", color=color, capsize=3
        )
        # (above the interval: beside it would be beyond the edge where the axes are narrow)
        where = {"xytext": (0, 6), "textcoords": "offset points", "horizontalalignment": "center"}
        axes.annotate(row["verdict"], (d["value"], y), fontsize=9, **where)
    reach = max([0.8, *(1.6 * max(abs(r["difference"]["low"]), abs(r["difference"]["high"])) for _, r, _ in rows)])
    axes.set_xlim(-reach, reach)
    axes.axvline(0.0, color="black", linewidth=0.8, linestyle="--")
    _finish(axes, [name for name, _, _ in rows], "points of accuracy")
    return figure


def _finish(axes: Any, names: list[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)


def tensorboard(result: dict[str, Any], folder: Path) -> None:
    """Write one run per cell: hparams (workload, precision) with time and memory as metrics.

    Args:
        result: the precision table's.
        folder: bears the result's name; what an earlier run of that name left there is removed.
    """
    for old in folder.glob("*/events.out.tfevents.*"):
        old.unlink()
    from torch.utils.tensorboard import SummaryWriter

    for cell in (c for c in result["cells"] if c["status"] == "ok"):
        metrics = {
            "milliseconds": cell["milliseconds"]["value"],
            "peak_megabytes": cell["peak_bytes"] / 2**20,
            "of_the_ceiling": cell["mfu_ceiling"],
        }
        for base in ("ieee-fp32", "tf32"):
            if f"faster_than_{base}" in cell:
                metrics[f"faster_than_{base}"] = cell[f"faster_than_{base}"]["value"]
        chosen = {"workload": cell["workload"], "precision": cell["setting"], "profile": result["profile"]}
        with SummaryWriter(str(folder / f"{cell['workload']}_{cell['setting'].replace(' ', '_')}")) as writer:  # type: ignore[no-untyped-call]
            writer.add_hparams(chosen, metrics, run_name=".")  # type: ignore[no-untyped-call]
            for i, seconds in enumerate(cell["seconds"]):
                writer.add_scalar("block/milliseconds", 1e3 * seconds, i)  # type: ignore[no-untyped-call]
    for found in result.get("accuracy", []):
        for row in found["rows"]:
            with SummaryWriter(str(folder / f"{found['task']}_{row['precision']}")) as writer:  # type: ignore[no-untyped-call]
                for seed, value in enumerate(row["accuracy"]):
                    writer.add_scalar("accuracy/by_seed", value, seed)  # type: ignore[no-untyped-call]
