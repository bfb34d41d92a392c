"""One row per public callback: a good example, and for every argument a value that must change something observable.

A callback without a row fails ``tests/together``. The support matrix of the docs is the second table.
"""

from __future__ import annotations

import itertools
from typing import Any

from lightning_tricks import AutoClip
from lightning_tricks.decays import Phase


def halves(batch: Any, parts: int) -> list[Any]:
    """Split a batch into parts of which the first is the largest, as no other function does."""
    n = len(batch[0])
    bounds = [0, *range(n - parts + 1, n + 1)]
    return [tuple(x[a:b] for x in batch) for a, b in itertools.pairwise(bounds)]


EXAMPLES: dict[str, dict[str, Any]] = {
    "FP32Islands": {"modules": ["net*"]},
    "GradientAccumulation": {"batches": 1},
    "GradientMonitor": {},
    "GradientClip": {"rule": 1.0},
    "LRFinder": {"num_steps": 10},
    "LRSchedule": {"warmup": 2},
    "LossScaleGuard": {},
    "PrecisionDoctor": {},
    "DeadUnits": {"every_n_steps": 1, "patience": 1, "grace": 0},
    "GenerationDrift": {"num_samples": 32},
    "ModeCollapse": {"generator": "echo", "every_n_steps": 1, "patience": 1, "grace": 0},
    "PosteriorCollapse": {"mean": "net", "log_variance": "net", "every_n_steps": 1, "patience": 1, "grace": 0},
    "PredictionCollapse": {"output": "net", "every_n_steps": 1, "patience": 1, "grace": 0},
    "RepresentationCollapse": {"layer": "net", "every_n_steps": 1, "patience": 1, "grace": 0},
    "UsageCollapse": {"assignments": "net", "every_n_steps": 1, "patience": 1, "grace": 0},
    "ProgressMetrics": {},
    "ExactResume": {},
    "ResumeGuard": {},
    "SanityCheck": {"overfit_batch": False},
    "MemoryDoctor": {"every_n_steps": 1},
    "TrainingDoctor": {"every_n_steps": 1},
}

# what other public classes cannot be made without
REQUIRED: dict[str, dict[str, Any]] = {
    "CachedMixedPrecision": {"precision": "16-mixed", "device": "cpu"},
    "ClipNorm": {"max_norm": 1.0},
    "ClipValue": {"max_value": 1.0},
    "CosineRestarts": {"first": 10},
    "Exponential": {"gamma": 0.9},
    "Function": {"function": lambda update, length: 1.0},
    "InverseTime": {"rate": 0.1},
    "Join": {"phases": [Phase("linear", 10)]},
    "MixedGenerations": {"real": [1, 2], "generated": [3, 4]},
    "MultiStep": {"milestones": [10, 20]},
    "NaturalExponential": {"rate": 0.1},
    "Noam": {"warmup": 10},
    "Phase": {"decay": "linear"},
    "Piecewise": {"boundaries": [10], "values": [1.0, 0.1]},
    "Plateau": {"monitor": "val_loss"},
    "Step": {"every": 10},
}

# arguments that name layers, log keys and the like: whether they exist is known when a fit starts, or when they are logged
NAMES = {
    ("GenerationDrift", "sample"),
    ("ModeCollapse", "generator"),
    ("Plateau", "monitor"),
    ("PosteriorCollapse", "log_variance"),
    ("PosteriorCollapse", "mean"),
    ("PredictionCollapse", "output"),
    ("PredictionCollapse", "target"),
    ("RepresentationCollapse", "layer"),
    ("UsageCollapse", "assignments"),
}

# argument -> a value that differs from the example's in what is logged or in the weights
VARIANTS: dict[str, dict[str, Any]] = {
    "FP32Islands": {"modules": ["net.0"]},
    "LossScaleGuard": {
        "min_scale": 4096.0,
        "max_scale": 64.0,
        "max_consecutive_skips": 3,
        "on_failure": "fp32",
    },
    "PrecisionDoctor": {"every_n_steps": 3, "modules": ["net.0"]},
    "DeadUnits": {"layers": ["net.0"], "every_n_steps": 2, "action": "raise", "patience": 3, "grace": 4},
    "GenerationDrift": {"sample": "other_sample", "num_samples": 40, "every_n_epochs": 2, "action": "raise"},
    "ModeCollapse": {"generator": "net.1", "every_n_steps": 2, "action": "raise", "patience": 3, "grace": 4},
    "PosteriorCollapse": {
        "mean": "net.4",
        "log_variance": "net.4",
        "every_n_steps": 2,
        "action": "raise",
        "patience": 3,
        "grace": 4,
    },
    "PredictionCollapse": {
        "output": "net.3",
        "target": "second",
        "every_n_steps": 2,
        "action": "raise",
        "patience": 3,
        "grace": 4,
    },
    "RepresentationCollapse": {"layer": "net.1", "every_n_steps": 2, "action": "raise", "patience": 3, "grace": 4},
    "UsageCollapse": {
        "assignments": "net.1",
        "kind": "router",
        "every_n_steps": 2,
        "action": "raise",
        "patience": 3,
        "grace": 4,
    },
    "SanityCheck": {
        "initial_loss": False,
        "overfit_batch": True,
        "input_matters": False,
        "sample_independence": False,
        "on_failure": "raise",
    },
    "ProgressMetrics": {"keys": ["trainer/updates"]},
    "ExactResume": {"gradients": True},
    "ResumeGuard": {"mode": "raise"},
    "MemoryDoctor": {"every_n_steps": 3, "action": "raise"},
    "TrainingDoctor": {"every_n_steps": 3, "action": "raise", "reference_batch": True},
    "GradientAccumulation": {
        "batches": 3,
        "target_batch_size": 20,
        "weight": "equal",
        "on_oom": "split",
        "lr_scaling": "linear",
        "split_fn": halves,
    },
    "GradientMonitor": {
        "every_n_steps": 3,
        "per_layer": False,
        "groups": {"head": r"^net\.4\."},
        "norm_type": 1.0,
        "update_ratio": True,
        "noise_scale": True,
        "histograms": True,
    },
    "GradientClip": {
        "rule": AutoClip(50.0),
        "per": "layer",
        "nonfinite": "zero",
        "groups": {"none of it": "^second"},
        "conflict": "replace",
    },
    "LRFinder": {
        "min_lr": 1e-6,
        "max_lr": 100.0,
        "num_steps": 50,
        "suggestion": "valley",
        "probe": False,
        "refine": True,
        "apply": False,
        "on_low_confidence": "raise",
        "mode": "linear",
    },
    "LRSchedule": {
        "decay": "linear",
        "warmup": 5,
        "warmup_shape": "cosine",
        "warmup_start": 0.5,
        "hold": 4,
        "final": 0.5,
        "total": 30,
        "conflict": "replace",
        "momentum": (0.9, 0.5),
        "weight_decay_final": 0.5,
        "overrides": {"^net": 0.1},
    },
}

# what changes a training, and is meant to; whoever is new must be put here: with all others, as in their examples, weights are bit-identical
ACTORS = {"FP32Islands", "GradientAccumulation", "GradientClip", "LRFinder", "LRSchedule", "LossScaleGuard"}
OBSERVERS = sorted(set(EXAMPLES) - ACTORS)

# what an argument needs beside it to show an effect: other arguments, and whether memory runs out
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("GradientClip", "nonfinite"): {"nonfinite": "warn"},
    ("GradientClip", "conflict"): {"conflict": "error"},
    ("LRSchedule", "conflict"): {"conflict": "error"},
    **{("LRFinder", name): {"num_steps": 40} for name in VARIANTS["LRFinder"]},
    ("LRFinder", "on_low_confidence"): {"max_lr": 1e-6},
    ("TrainingDoctor", "reference_batch"): {"reference_batch": False},
    ("LossScaleGuard", "max_consecutive_skips"): {"max_consecutive_skips": 5},
    ("LossScaleGuard", "on_failure"): {"max_consecutive_skips": 3},
    ("GradientAccumulation", "weight"): {"batches": 2},
    ("GradientAccumulation", "lr_scaling"): {"batches": 2},
    ("GradientAccumulation", "split_fn"): {"on_oom": "split"},
}
# what is observed under another precision than 32-true
UNDER = {"FP32Islands": "bf16-mixed", "LossScaleGuard": "16-mixed"}
MEMORY_RUNS_OUT = {("GradientAccumulation", "on_oom"), ("GradientAccumulation", "split_fn")}

# callback -> modes that it refuses by name
REFUSES = {
    "GradientAccumulation": {"manual": "manual optimization", "lbfgs": "LBFGS evaluates"},
    "LRFinder": {"manual": "manual optimization", "lbfgs": "LBFGS"},
    "FP32Islands": {"bf16-true": "keeps the weights themselves in 16 bit"},
}

OPTIMIZERS = ("foreach", "fused", "momentum fused", "adamw fused", "lbfgs")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")
REFUSED = {("lbfgs", "16-mixed"): "not compatible"}  # by Lightning itself

LOOPS = {  # what optimizers, schedulers and data do -> what `LRSchedule` and `LRFinder` make of it, and where it is tested
    "optimizers that step more or less often than others": ("each has a curve of its own length", "horizons"),
    "data that grow, data without a length": ("the rest of the curve is laid over the rest of the run", "horizons"),
    "a resume with another batch size, window or `max_epochs`": ("the same", "horizons"),
    "a second fit of one Trainer": ("the rates of the optimizers of that fit; the found rate holds", "horizons"),
    "optimizers replaced, parameters replaced, groups swapped": ("followed, by identity", "other_optimizers"),
    "optimizers around another (Lookahead), without `super().__init__()`": ("followed", "other_optimizers"),
    "schedule-free optimizers": ("a word where a validation looks at their training weights", "other_optimizers"),
    "every scheduler of torch beside `LRFinder`": ("the run with that rate written by hand", "base_rates"),
}
PARTNERS = {  # callbacks and tools of others -> what becomes of them beside ours, and its test in tests/together
    "`EMAWeightAveraging`": (
        "its average is that of the clipped and scheduled weights",
        "test_the_average_of_ema_is_that_of_the_clipped_weights",
    ),
    "`StochasticWeightAveraging`": (
        "beside `LRSchedule` a conflict by name; with `conflict='replace'` it averages, and `LRSchedule` decides the rates",
        "test_a_schedule_that_replaces_it_decides_the_rates_of_stochastic_averaging",
    ),
    "`BackboneFinetuning`": (
        "what it unfreezes is clipped, and follows `LRSchedule`, which says so unless `conflict='replace'`",
        "test_a_schedule_decides_the_rate_of_an_unfrozen_backbone_and_says_so",
    ),
    "`ModelPruning`": (
        "masks, clipped gradients and rates are those of Lightning and torch alone",
        "test_pruned_weights_stay_pruned_and_keep_their_names_in_the_logs",
    ),
    "`RichProgressBar`": (
        "shows its numbers and those of `ProgressMetrics`",
        "test_the_bar_shows_its_numbers_and_ours",
    ),
    "`DeviceStatsMonitor`": (
        "logs the same values at the same steps",
        "test_device_statistics_are_logged_beside_ours",
    ),
    "`FinetuningScheduler` (finetuning-scheduler)": (
        "clipped as by Lightning; observers change nothing",
        "test_a_fine_tuning_schedule_is_clipped_and_watched",
    ),
    "configs with `_target_` (Hydra)": (
        "every callback with every argument, also from lists and dicts of OmegaConf",
        "test_hydra_makes_every_callback_from_a_target",
    ),
    "subclasses of `LightningCLI`": (
        "class arguments, defaults and links train as code does",
        "test_a_subclass_of_the_cli_trains_as_code_does",
    ),
}
HELD = {  # what module and data hold beside weights -> what becomes of it on a resume with `ExactResume`
    "counters, lists, deques, dicts, arrays of the module": "saved where they changed",
    "tensors that are not persistent buffers": "saved where they changed",
    "samplers and data sets that shuffle themselves, count or draw": "saved where they changed",
    "`BackboneFinetuning` after the unfreeze": "`requires_grad` is saved",
    "lists of objects, iterators in progress": "named at the first checkpoint; `ResumeGuard` names them before the first step",
    "loaders with a `state_dict`": "left to Lightning",
}
# what gradients may be -> what becomes of them, and where that is tested
GRADIENTS = {
    "norms of 1e-30 to 1e30": ("measured and clipped as by torch in float64", "tests/laws, tests/gradients"),
    "float64": ("norms, totals and coefficients in float64; a fused optimizer's are written", "tests/gradients"),
    "complex": ("work; `ClipValue` refuses them by name", "tests/gradients"),
    "of parameters without elements": ("work", "tests/laws"),
    "of `self.optimizers(use_pl_optimizer=False)`": ("not seen; one warning per run", "tests/gradients"),
}

STRATEGIES = {
    "one device": "works",
    "DDP": "works; the only collective at an update is an all-reduce of two numbers by `GradientAccumulation`",
    "FSDP2 (`ModelParallelStrategy`)": "works, one all-reduce of a number per parameter; `AGC`, `LRFinder`, "
    "`SanityCheck`, rollbacks and `GradientAccumulation(on_oom='split')` refused by name",
    "FSDP1": "refused by name",
    "DeepSpeed": "refused by name",
    "XLA-FSDP": "refused by name",
}

# callbacks that cannot work on sharded parameters, and say so; all others train (tests/distributed)
REFUSED_UNDER_FSDP2 = ("LRFinder",)
NOT_RUN_UNDER_FSDP2 = ("SanityCheck",)  # (a warning says so)

# (optimizer, scaler, nonfinite) -> host reads per update that is not logged, on a GPU; counted in tests/gradients
HOST_READS = {
    ("fused", "no", "any"): 0,
    ("any", "16-mixed", "any"): 0,
    ("foreach", "no", "warn, zero"): 0,
    ("foreach", "no", "skip, raise"): 1,
}


# form of a batch -> how GradientAccumulation counts its samples; each is in tests/modules/test_batches.py
BATCHES = {
    "tensors in lists, tuples, named tuples, mappings (`UserDict`, `BatchEncoding`), dataclasses (with slots), objects": (
        "the first dimension that all tensors agree on"
    ),
    "lists of images with targets as dicts, lists of samples": "the length that all lists agree on",
    "graphs of torch_geometric, `TensorDict`": "`num_graphs`, `batch_size`",
    "`PackedSequence`": "its sequences",
    "an object with a length that holds tensors (molecules of chemprop)": "its length",
    "tensors that do not agree (class weights in the batch)": "an error that names `weight=`",
}


def support_page() -> str:
    """The page ``docs/support.md``."""
    lines = ["# What works with what", "", "Made from `tests/matrix.py`; every cell is a test.", ""]
    lines += ["| optimizer | " + " | ".join(PRECISIONS) + " |", "| --- " * (len(PRECISIONS) + 1) + "|"]
    for kind in OPTIMIZERS:
        cells = ["refused by Lightning" if (kind, p) in REFUSED else "works" for p in PRECISIONS]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    lines += ["", "Automatic and manual optimization alike; sparse gradients work too, but for `AGC`.", ""]
    lines += ["| gradients | `GradientMonitor`, `GradientClip` | tested in |", "| --- | --- | --- |"]
    lines += [f"| {kind} | {what} | {where} |" for kind, (what, where) in GRADIENTS.items()] + [""]
    lines += ["| loop | `LRSchedule`, `LRFinder` | tested in |", "| --- | --- | --- |"]
    lines += [f"| {loop} | {what} | test_{where}.py |" for loop, (what, where) in LOOPS.items()] + [""]
    lines += ["| beside | what holds | tested in tests/together/test_partners.py |", "| --- | --- | --- |"]
    lines += [f"| {partner} | {what} | `{test}` |" for partner, (what, test) in PARTNERS.items()] + [""]
    lines += ["Beside each of these callbacks all observers leave the training bit for bit as it is.", ""]
    lines += ["| held beside the weights | on a resume with `ExactResume` |", "| --- | --- |"]
    lines += [f"| {kind} | {what} |" for kind, what in HELD.items()] + [""]
    lines += [f"`{name}` refuses by name: {', '.join(modes)}." for name, modes in REFUSES.items()] + [""]
    lines += ["| strategy | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in STRATEGIES.items()), ""]
    lines += ["| callback | DDP | FSDP2 | FSDP1, DeepSpeed, XLA-FSDP |", "| --- | --- | --- | --- |"]
    for name in EXAMPLES:
        cell = "refused by name" if name in REFUSED_UNDER_FSDP2 else "works"
        cell = "not run, a warning says so" if name in NOT_RUN_UNDER_FSDP2 else cell
        lines.append(f"| `{name}` | works | {cell} | refused by name |")
    lines += [
        "",
        "What `GradientAccumulation` takes for the samples of a batch:",
        "",
        "| batch | samples |",
        "| --- | --- |",
    ]
    lines += [f"| {form} | {count} |" for form, count in BATCHES.items()]
    lines += ["", "What each costs on many processes: [what it costs at scale](scaling.md).", ""]
    lines += ["Host reads of `GradientMonitor` and `GradientClip` per update that is not logged, on a GPU:", ""]
    lines += ["| optimizer | GradScaler | `nonfinite` | reads |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(key)} | {reads} |" for key, reads in HOST_READS.items()]
    lines += ["", "`LossScaleGuard` and `PrecisionDoctor` add none to these (counted in tests/precision), nor do the"]
    lines += ["detectors of collapse between checks (tests/collapse)."]
    return "\n".join(lines) + "\n"
