"""The precision table's Markdown, from its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.results import is_main, table
from benchmarks.settings import BASES


def interval(found: dict[str, float] | None, form: str = "{:.2f}") -> str:
    """Return ``value [low, high]``.

    >>> interval({"value": 1.5, "low": 1.4, "high": 1.6})
    '1.50 [1.40, 1.60]'
    """
    if found is None:
        return "-"
    return f"{form} [{form}, {form}]".format(found["value"], found["low"], found["high"])


def ratio(found: dict[str, float] | None) -> str:
    """Return a speed ratio with its interval; none is claimed where the interval contains 1.

    >>> ratio({"value": 1.1, "low": 0.9, "high": 1.3})
    'no claim [0.90, 1.30]'
    """
    if found is None:
        return "-"
    if found["low"] <= 1.0 <= found["high"]:
        return "no claim [{low:.2f}, {high:.2f}]".format(**found)
    return f"{interval(found)}x"


def baseline(cells: Sequence[dict[str, Any]]) -> str:
    """Return the baseline that flatters least: TF32 where it was measured, else IEEE float32.

    >>> baseline([{"faster_than_ieee-fp32": {}}])
    'ieee-fp32'
    """
    return "tf32" if any("faster_than_tf32" in cell for cell in cells) else "ieee-fp32"


def hardware(result: dict[str, Any]) -> str:
    """Return on what a result was measured, in a few words."""
    e = result["environment"]
    cpu = e["gpu"] is None or result["profile"] != "gpu"
    threads = f", {e['threads']} thread{'s' if e['threads'] > 1 else ''}" if cpu else f", CUDA {e.get('cuda')}"
    return f"{e['cpu'] if cpu else e['gpu']}{threads}, torch {e['torch']}, lightning {e['lightning']}"


def markdown(result: dict[str, Any]) -> str:
    """Return all tables."""
    parts = [f"# Precision: time, memory, accuracy\n\n`{result['command']}` ({result['date']})\n\n{hardware(result)}."]
    if not result.get("complete"):
        parts.append("**Not complete: the run was interrupted, or goes on.**")
    parts += [f"**Not measured: {name}. {why}**" for name, why in result.get("failures", {}).items()]
    parts.append(result["method"])
    makers = (_ceilings, _speed, _pack, _cache, _accuracy, _bytes, _optimizers, _synchronizes)
    return "\n\n".join(parts + [text for make in makers if (text := make(result))]) + "\n"


def _ceilings(result: dict[str, Any]) -> str:
    found = result.get("ceilings")
    if not found:
        return ""
    rows = [[p, f"{f / 1e12:.2f}"] for p, f in found["flops"].items()]
    rows.append(["copy, GB/s", f"{found['bytes_per_second'] / 1e9:.1f}"])
    head = (
        f"## Ceilings\n\nMeasured: a product of {found['matmul_size']} x {found['matmul_size']} matrices, and a copy."
    )
    return f"{head}\n\n{table(['precision', 'TFLOP/s'], rows)}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _speed(result: dict[str, Any]) -> str:
    if not result["cells"]:
        return ""
    rows = []
    for c in result["cells"]:
        if c["status"] != "ok":
            rows.append([c["workload"], c["setting"], c.get("reason", c["status"]), *[""] * 11])
            continue
        if not is_main(c) and c.get("role") not in ("again", "compile", "layout") and not c["cached"]:
            continue
        per = f"{c['per_second']:,.0f} {c['unit']}" + (" (launch-bound)" if c.get("launch_bound") else "")
        memory = [_share(c.get(f"memory_of_{b}")) for b in BASES]
        work = [
            _share(c["mfu_datasheet"]),
            _share(c["mfu_ceiling"]),
            _share(c.get("bandwidth_share")),
            _share(c["roofline_share"]),
        ]
        joules = f"{c['joules_per_item']:.3g}" if c.get("joules_per_item") else "-"
        skips = "-" if "skipped_steps" not in c else str(c["skipped_steps"])
        cosine = f"{c['gradient_cosine']:.4f}" if "gradient_cosine" in c else "-"
        speed = [ratio(c.get(f"faster_than_{b}")) if b != c["setting"] else "1" for b in BASES]
        name = [c["workload"], c["setting"], f"{c['milliseconds']['value']:.2f}", per]
        rows.append(
            [*name, *speed, f"{c['peak_bytes'] / 2**20:,.1f}", " / ".join(memory), *work, joules, cosine, skips]
        )
    header = ["workload", "precision", "ms", "per second", "faster than IEEE [95 %]", "faster than TF32 [95 %]", "peak MB", "of IEEE / TF32", "MFU (datasheet)", "of the FLOP ceiling", "of the bandwidth", "of the roofline", "joules per item", "gradient cosine", "skipped"]  # fmt: skip
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    names = {c["workload"]: c["text"] for c in result["cells"]}
    over = any(max(c["mfu_ceiling"], c["roofline_share"]) > 1 for c in result["cells"] if c["status"] == "ok")
    note = (
        "\n\nMore than 100 % of a ceiling: FLOPs are counted as for direct convolution, of which Winograd's algorithm needs a "
        "part only; or the product that was measured is not the machine's best."
    )
    legend = "\n".join(f"- {name}: {text}" for name, text in names.items())
    return f"## Time and memory\n\n{legend}\n\n{table(header, rows)}{note if over else ''}"


def _pack(result: dict[str, Any]) -> str:
    rows = [
        [
            c["workload"],
            c["setting"],
            *(interval(c.get(f"pack_cost{when}"), "{:.3f}") for when in ("_off", "_logged", "")),
            interval(c["pack_milliseconds"]),
        ]
        for c in result["cells"]
        if "pack_cost" in c
    ]
    if not rows:
        return ""
    text = (
        "Five callbacks in the Trainer over none, in the same precision: in steps that are not logged, in steps that are, and "
        "mixed as with log_every_n_steps=50. (Results of schema 1 have one figure, of steps that were mostly not logged.)"
    )
    header = ["workload", "precision", "not logged [95 %]", "logged", "1 of 50 logged", "added ms"]
    return f"## What the pack costs\n\n{text}\n\n{table(header, rows)}"


def _cache(result: dict[str, Any]) -> str:
    rows = [
        [c["workload"], c["precision"], ratio(c["faster_than_uncached"]), _share(c["memory_of_uncached"])]
        for c in result["cells"]
        if "faster_than_uncached" in c
    ]
    if not rows:
        return ""
    header = ["workload", "precision", "faster than without [95 %]", "memory of without"]
    return f"## The weight cache\n\n`CachedMixedPrecision` over Lightning's own plugin.\n\n{table(header, rows)}"


def _accuracy(result: dict[str, Any]) -> str:
    parts = []
    for found in result.get("accuracy", []):
        rows = []
        for r in found["rows"]:
            epochs = [str(e) if e is not None else "never" for e in r["epochs_to_wanted"]]
            rows.append([
                r["precision"], f"{r['mean_accuracy']:.2f}", interval(r.get("difference")), r.get("verdict", "baseline"),
                ratio(r.get("time_ratio")), " ".join(epochs),
                ratio(r.get("time_to_wanted_ratio")),
            ])  # fmt: skip
        header = ["precision", "accuracy, %", "difference in points [90 %]", "verdict (margin 0.5)", "training time over it", "epochs to 98 %", "time to 98 % over it"]  # fmt: skip
        base = found["rows"][0]["precision"]
        text = f"{found['seeds']} paired seeds, {found['epochs']} epochs; baseline: {base}."
        parts.append(f"## Accuracy: {found['task']}\n\n{text}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def _bytes(result: dict[str, Any]) -> str:
    found = result.get("bytes")
    if not found:
        return ""
    rows = [
        [r["precision"], " ".join(f"{b:.4f}" for b in r["bits"]), interval(r.get("more_bits_percent")), r.get("verdict", "-")]
        for r in found["rows"]
    ]  # fmt: skip
    header = ["precision", "bits per byte, by seed", "more bits, % [90 %]", "verdict (margin 1 %)"]
    text = f"A byte transformer on Python's own source, {found['steps']} updates, {found['seeds']} paired seeds."
    return f"## Bits per byte at equal steps\n\n{text}\n\n{table(header, rows)}"


def _optimizers(result: dict[str, Any]) -> str:
    found = result.get("optimizers")
    if not found:
        return ""
    rows = [
        [
            r["optimizer"],
            f"{r['tensors']} x {r['elements']:,}",
            f"{r['forloop']['milliseconds']:.2f}",
            *(
                f"{r[k]['milliseconds']:.2f} ({interval(r[k]['over_forloop'])} of the loop)"
                for k in ("foreach", "fused")
            ),
        ]
        for r in found
    ]
    return (
        f"## One optimizer step\n\n{table(['optimizer', 'tensors', 'forloop, ms', 'foreach, ms', 'fused, ms'], rows)}"
    )


def _synchronizes(result: dict[str, Any]) -> str:
    found = result.get("synchronizes")
    if found is None:
        return ""
    rows = [[name, "none" if text is None else text[:100]] for name, text in found.items()]
    return f"## Host reads at steps that are not logged (torch's sync debug mode)\n\n{table(['model', 'found'], rows)}"
