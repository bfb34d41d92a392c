"""What each callback costs as a function of model and processes: the one place. ``docs/scaling.md`` is made from it.

Formulas are Python expressions in the symbols below; the tests evaluate them and compare with what they count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import scale
from benchmarks.results import FOLDER

SYMBOLS = {
    "L": "parameter tensors",
    "W": "of these, matrices; at most 16 count",
    "A": "activation layers that `DeadUnits` watches",
    "U": "units in them, all together",
    "d": "width of the layer that `RepresentationCollapse` watches, as it is held at most 65,536 (of more, 4,096 are kept), "
    "as it is sent at most 128; `PosteriorCollapse`: both outputs together",
    "K": "classes; for `UsageCollapse` entries",
    "S": "numbers in a sample, for `ModeCollapse` at most 64",
    "N": "`num_samples` of `GenerationDrift`",
    "n": "rows that a batch gives on one process; n·u is at most 1,023 (of logits and latents at most 67 and 17 million numbers, "
    "but 128 and 32 rows), and for `ModeCollapse` n·(2·u + 1) at most 512",
    "B": "bytes of one batch on one process",
    "u": "updates since the last logged step or check; 64 at most are held",
    "R": "processes",
}

EMPTY = 3  # bytes of an empty dict in a pickled list, rounded up
NORMS = "8 * L"  # float64: sums of squares


@dataclass(frozen=True)
class Scale:
    """What a callback adds on each process.

    Args:
        held: bytes of tensors between two updates.
        update: collectives at every update, as a list of the bytes of each.
        logged: more of them at a logged step or check.
        sharded_update, sharded_logged: what sharded parameters (FSDP2) add to these.
        reads: host reads at an update that is not logged, with an optimizer that is not fused.
        once: what happens at the begin, at an epoch's end or at a checkpoint, in words.
        single: bytes held where there is one process only, if it is another number.
    """

    held: str = "0"
    update: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    sharded_update: tuple[str, ...] = ()
    sharded_logged: tuple[str, ...] = ()
    reads: int = 0
    once: str = ""
    single: str | None = None


SCALES: dict[str, Scale] = {
    "DeadUnits": Scale("16 * U + 8 * A", logged=("4 * A", "4 * U", "4 * U", "12 * A")),
    "ExactResume": Scale(
        "15048",
        single="15048 + 65536 + 2048",  # (of the data set there, with its targets: not more than 64 kB each)
        once="at a checkpoint one broadcast of some 1 kB, and one gather, on the first process alone, of what differs "
        "from it: some bytes where all are seeded alike, at most 15 kB and what has changed",
    ),
    "FP32Islands": Scale(),
    "GenerationDrift": Scale("4 * N * S + B", once="after a generation sampling, a forward pass, three all-reduces"),
    "GradientAccumulation": Scale("8", update=("8",), single="0", once="at the first batch one broadcast"),
    "GradientClip": Scale("4 * (4096 + 3 + u * (L + 3) + 2 * L)", sharded_update=(NORMS,), reads=1),
    "GradientMonitor": Scale("4 * (u * (L + 1) + 2 * L)", sharded_update=(NORMS,)),
    "LRFinder": Scale(once="a copy of weights and optimizer state in the host's memory; two all-reduces per rate tried"),
    "LRSchedule": Scale(once="with `max_time` one broadcast every 16 updates"),
    "LossScaleGuard": Scale(once="after a change of precision one all-reduce per update"),
    "MemoryDoctor": Scale("B", logged=("20",), once="after the last step one all-reduce of 4 bytes"),
    "ModeCollapse": Scale("8 * S * n * (2 * u + 1)", logged=("4", "40")),
    "PosteriorCollapse": Scale("4 * d * n * u", logged=("4", "4 + 2 * d", "8 + 6 * d")),
    "PrecisionDoctor": Scale(once="after a skipped update a forward pass and one all-reduce of 4 bytes a module"),
    "PredictionCollapse": Scale(
        "n * u * (4 * K + 273) + 4 * n * (2 * u + 1) + 8", logged=("4", "4 * (3 + 5 * K)", "16", "4 * (9 + 2 * K)"),
        once="fingerprints, 4 bytes a sample, of the last 4,096 samples that it has looked at; 8 bytes a sample and "
        "column of ids that embeddings look up",
    ),
    "ProgressMetrics": Scale(),
    "RepresentationCollapse": Scale(
        "n * u * (4 * d + 8)", logged=("4", "4 * (d + 1)", "4 * (70 + 68 * d + d * d)")
    ),
    "ResumeGuard": Scale(once="before the first step it asks all callbacks for their state, as a checkpoint does"),
    "SanityCheck": Scale(
        once="a copy of weights and optimizer state in the host's memory, 36 forward passes, 20 to 110 updates"
    ),
    "TrainingDoctor": Scale(
        "2 * B + 4 * (u + 2 * L)", logged=("4", "4 * (u + 5 + L + 2 * W)"), sharded_logged=(NORMS,),
        once="before the first step and at 8 checks, then at ever fewer, a forward pass of the first batch",
    ),
    "UsageCollapse": Scale("8 * K + 20", logged=("4", "4 * (2 * K + 5)")),
}  # fmt: skip


def value(formula: str, sizes: Mapping[str, int]) -> int:
    """Return what a formula comes to.

    >>> value("4 * L", {"L": 3})
    12
    """
    return int(eval(formula, {"__builtins__": {}}, dict(sizes)))


def shown(formula: str) -> str:
    """Return a formula as the page shows it.

    >>> shown("4 * (2 + d * d)")
    '4·(2 + d·d)'
    """
    return formula.replace(" * ", "·")


def _listed(formulas: tuple[str, ...]) -> str:
    return " + ".join(f"[{shown(f)}]" for f in formulas) or "none"


# a large run, for the examples
LARGE = {"P": 7_000_000_000, "L": 300, "W": 16, "A": 32, "U": 32 * 11008, "d": 128, "K": 32_000, "S": 64,
         "N": 512, "n": 5, "B": 65_536, "u": 49, "R": 10_000}  # fmt: skip


def _readable(number: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def scaling_page() -> str:
    """The page ``docs/scaling.md``."""
    lines = ["# What it costs at scale", ""]
    lines += ["Made from `tests/scaling.py`. Bytes and counts of all but the last column are"]
    lines += [
        "compared with what is counted at 1, 2 and 4 processes, on models of two sizes; the collectives under DDP also"
    ]
    lines += ["at 2 to 1,024 processes, of which torch's `fake` group plays all but the first.", ""]
    lines += ["Everything is per process. A collective is shown as the bytes that one process gives, in brackets."]
    lines += ["A detector's figures are those of one detector. The symbols:", ""]
    lines += ["| symbol | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in SYMBOLS.items()), ""]
    columns = ("callback", "bytes held", "collectives at every update", "more at a logged step or check",
               "more with FSDP2", "host reads", "else")  # fmt: skip
    lines += ["## Per callback", "", f"| {' | '.join(columns)} |"]
    lines += ["| --- " * 7 + "|"]
    for name, s in SCALES.items():
        sharded = [f"{_listed(f)} {when}" for f, when in ((s.sharded_update, "at every update"),
                   (s.sharded_logged, "at a check")) if f]  # fmt: skip
        cells = [f"`{name}`", shown(s.held), _listed(s.update), _listed(s.logged), "".join(sharded) or "none",
                 str(s.reads), s.once]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [*_notes(), *_examples(), *_growth(), *_advice()]
    return "\n".join(lines) + "\n"


def _notes() -> list[str]:
    return [
        "",
        "- Host reads are those at an update that is not logged, on a GPU. The one of `GradientClip` is for",
        "  optimizers that are not fused, without a GradScaler; with a fused one it is 0.",
        "- The all-reduce of norms is shared: with `GradientMonitor`, `GradientClip` and `TrainingDoctor` together there",
        "  is one. Under DDP there is none, since gradients are equal on all processes already.",
        "- The first collective of a detector's check asks whether every process has seen something. The host waits for",
        "  its answer: one host read at a check, on several processes only.",
        "- No collective has a barrier before it. Lightning's own `strategy.reduce` has one; it is not used.",
        "- None of these numbers grows with R, but for `ExactResume`: its gather brings to the first process what the",
        "  others have that it has not, which is nothing where all are seeded alike, and at most R times 15 kB.",
        "  The time of a collective grows with R all the same, about as its logarithm.",
        "- Beside tensors, a detector keeps a history of at most 4,096 checks on the host, a few hundred bytes each.",
        "- A rollback keeps up to three copies of weights and optimizer state in the host's memory (`keep=`).",
    ]


def _exact_resume(processes: int) -> int:
    """Bytes of its state where all are seeded alike: of one process, and an empty dict for each other one."""
    return value(SCALES["ExactResume"].held, LARGE) + EMPTY * processes


def _examples() -> list[str]:
    size = LARGE
    lines = ["", "## An example", ""]
    lines += [f"{size['P']:,} parameters in {size['L']} tensors, {size['R']:,} processes, a log"]
    lines += [f"or a check every {size['u'] + 1} updates. `n`, `K` and the like are those of a language model:", ""]
    lines += ["| callback | bytes held | given per update | given at a check | the same with FSDP2 |"]
    lines += ["| --- " * 5 + "|"]
    for name, s in SCALES.items():
        plain = [sum(value(f, size) for f in part) for part in (s.update, s.logged)]
        more = [sum(value(f, size) for f in part) for part in (s.sharded_update, s.sharded_logged)]
        if not (any(plain) or any(more) or value(s.held, size) > 1000):
            continue
        sharded = f"{_readable(plain[0] + more[0])} per update, {_readable(plain[1] + more[1])} more at a check"
        cells = [_readable(value(s.held, size)), *map(_readable, plain), sharded]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    alike, other, states = (
        _exact_resume(size["R"]),
        size["R"] * value(SCALES["ExactResume"].held, size),
        3 * 12 * size["P"],
    )
    lines += [
        "",
        f"- A checkpoint with `ExactResume` holds {_readable(alike)} of it where all processes are seeded alike",
    ]
    lines += [
        f"  (`seed_everything(seed)`), and at most {_readable(other)} where each has numbers of its own. The first"
    ]
    lines += ["  process gathers and writes it; no other process receives anything."]
    lines += [f"- DDP itself gives {_readable(4 * size['P'])} of gradients at every update: the 8 bytes of"]
    lines += ["  `GradientAccumulation` cost what a small message costs, which is its latency."]
    lines += [
        f"- Three states to roll back to, with Adam in float32, 12 bytes a parameter: {_readable(states)} of host"
    ]
    lines += ["  memory for each process, under DDP."]
    return lines


def _growth() -> list[str]:
    """What was counted in a long training and on large networks, from ``benchmarks/results/scale-cpu.json``."""
    result = json.loads((FOLDER / "scale-cpu.json").read_text())
    rows = result["steps"]["rows"]
    lines = ["", "## What grows with the steps", ""]
    lines += [
        f"README's list and all other callbacks, {rows[-1]['batch']:,} batches of two an update, a log and a check"
    ]
    lines += [
        "every 20 updates, under `16-mixed` with a GradScaler, TensorBoard and CSV. Counts, on one thread of a CPU"
    ]
    stopped = result["steps"].get("stopped")
    lines += [f"(`{result['steps']['command']}`{', which was stopped there' if stopped else ''}):", ""]
    lines += scale.steps_table([*rows[: -1 : max(1, len(rows) // 5)], rows[-1]]).splitlines()
    lines += [
        "",
        "- Objects, bytes of containers and states grow by the curves of the detectors, which are thinned out when",
    ]
    lines += [
        "  they have 4,096 points (2,000 events of a key, 1,024 checks of `TrainingDoctor`): by the size of a point"
    ]
    lines += ["  at a check until then, and not at all after it. The test plays that with bounds of 16 points."]
    lines += [
        "- Calls grow with the checks that `TrainingDoctor` looks back on, up to 1,024; then every second old one goes."
    ]
    lines += ["- Logs grow by the same at each logged step.", "", "## What grows with layers and parameter groups", ""]
    lines += [
        "Calls of Python and C functions until the first batch, at an update that is not logged, and at one that is:"
    ]
    for part in ("layers", "groups"):
        if part in result:
            lines += ["", *scale.part_table(part, result).splitlines()]
    lines += [
        "",
        "- What is added follows the number of layers or groups, and not its square. (torch itself looks at all groups",
    ]
    lines += ["  when another one is added: a million calls at 1,000 groups.)"]
    lines += [
        "- Most calls at the beginning belong to looks through all that the model holds, before it is run dry or resumed."
    ]
    return lines


def _advice() -> list[str]:
    held = _readable(value("4 * 4096 * L", LARGE))
    return [
        "",
        "## What to switch off at 10,000 GPUs",
        "",
        "Leave on: `GradientMonitor(per_layer=False)`, `GradientClip` per model with a fused optimizer, `LRSchedule`,",
        "`LossScaleGuard`. Under DDP they add no collective; under FSDP2 they share one all-reduce of 8·L bytes.",
        "",
        "| switch off | since |",
        "| --- | --- |",
        "| `ExactResume` with a seed for each process | 15 kB of each process in every checkpoint; seeded alike, nothing |",
        "| `ResumeGuard` beside it | its first look asks for that state once more; run it on two processes before |",
        "| `SanityCheck`, `LRFinder` | 20 to 360 updates that train nothing, on all GPUs; run them on one before |",
        "| `action='rollback'` | copies of weights and optimizer state in every host's memory; use `'stop'` and resume |",
        "| `GradientMonitor(histograms=True)` | up to 16,384 elements a tensor go to the host and into the log, each time |",
        "| `GradientMonitor(per_layer=True)` | L values in every log row; `groups=` says the same in a few |",
        "| `GradientMonitor(update_ratio=True)` | under FSDP2 two more all-reduces at a logged step, and copies of weights |",
        f"| `GradientClip(per='layer')` | 4,096 norms are kept for each tensor: {held} here instead of 16 kB |",
        "| `GradientAccumulation(target_batch_size=)` | the host waits for an all-reduce at every micro-batch; use `batches=` |",
        "| `GradientAccumulation(on_oom='split')` | gradients are reduced after the backward pass, not beside it |",
        "| `TrainingDoctor`, detectors at every 25 updates | each check waits for the slowest process; every 500 will do |",
        "| `PrecisionDoctor` | two values a module in every log row; switch it on when updates are skipped |",
        "",
        "And log seldom: `Trainer(log_every_n_steps=500)` makes all that happens at logged steps ten times as rare as",
        "Lightning's default of 50.",
    ]


if __name__ == "__main__":
    from pathlib import Path

    (Path(__file__).parents[1] / "docs" / "scaling.md").write_text(scaling_page())
