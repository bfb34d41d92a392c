"""What the callbacks add to a training step, against Lightning's own means."""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import grad_norm
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from benchmarks.counting import Reads
from benchmarks.environment import describe
from benchmarks.measure import LEAST_ROUNDS, Estimate, Lane, interleave, median_interval, paired, sessions_of
from benchmarks.models.resnet import resnet18
from benchmarks.models.towers import compute_bound, gpu_bound, launch_bound, loop_bound
from benchmarks.models.transformer import byte_transformer
from benchmarks.quiet import loggers_silent
from benchmarks.results import FOLDER, out_path, save, table
from lightning_tricks import (
    DeadUnits,
    ExactResume,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRSchedule,
    MemoryDoctor,
    PrecisionDoctor,
    PredictionCollapse,
    RepresentationCollapse,
    ResumeGuard,
    TrainingDoctor,
    recipe,
)

MODELS: dict[str, Callable[[], Any]] = {
    "a": launch_bound,
    "b": compute_bound,
    "c": loop_bound,
    "d": gpu_bound,
    "resnet18": resnet18,
    "transformer": byte_transformer,
}
BARE, CLIP_VAL, BOTH = "bare Trainer", "gradient_clip_val=1.0", "GradientMonitor + GradientClip"
SCHEDULE, THEIR_WINDOW, OUR_WINDOW = "LRSchedule", "accumulate_grad_batches=4", "GradientAccumulation(4)"
RECIPE = 'recipe("transformer")'
FLOOR = "torch's own norms of all gradients, and nothing else"
BY_HAND = "norm and clip by hand, in the hooks of one callback"
NOTHING = "seven callbacks of Lightning's that do nothing"
GRAD_NORM, PER_TENSOR = "Lightning's grad_norm, logged each step", "norms tensor by tensor, as Composer"
LISTED, LISTED_OFF, LISTED_LOGGED = (
    "README's list",
    "README's list, steps not logged",
    "README's list, each step logged",
)
CHECK, LOOK, MODULES = (
    "TrainingDoctor, a check each step",
    "TrainingDoctor, a check and the first batch again each step",
    "PrecisionDoctor, each step logged",
)
ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    BARE: lambda: {},
    "bare Trainer again": lambda: {},
    CLIP_VAL: lambda: {"gradient_clip_val": 1.0},
    FLOOR: lambda: {"callbacks": [ReadNorms()]},
    BY_HAND: lambda: {"callbacks": [ClipByHand()]},
    NOTHING: lambda: {"callbacks": [type(f"Nothing{i}", (L.Callback,), {})() for i in range(7)]},
    GRAD_NORM: lambda: {"callbacks": [LogGradNorm()]},
    PER_TENSOR: lambda: {"callbacks": [LogEachNorm()]},
    "GradientMonitor": lambda: {"callbacks": [GradientMonitor()]},
    "GradientClip": lambda: {"callbacks": [GradientClip(1.0)]},
    BOTH: lambda: {"callbacks": [GradientMonitor(), GradientClip(1.0)]},
    SCHEDULE: lambda: {"callbacks": [LRSchedule(total=10**6, warmup=0)]},
    THEIR_WINDOW: lambda: {"accumulate_grad_batches": 4},
    OUR_WINDOW: lambda: {"callbacks": [GradientAccumulation(4)]},
    "both, every layer logged each step": lambda: {"callbacks": [GradientMonitor(every_n_steps=1), GradientClip(1.0)]},
    "RepresentationCollapse": lambda: {"callbacks": [RepresentationCollapse("net")]},
    "PredictionCollapse": lambda: {"callbacks": [PredictionCollapse("net")]},
    "DeadUnits": lambda: {"callbacks": [DeadUnits()]},
    "TrainingDoctor": lambda: {"callbacks": [TrainingDoctor()]},
    "LossScaleGuard": lambda: {"callbacks": [LossScaleGuard()]},
    CHECK: lambda: {"callbacks": [TrainingDoctor(every_n_steps=1), LookAgain(False)]},
    LOOK: lambda: {"callbacks": [TrainingDoctor(every_n_steps=1), LookAgain(True)]},
    "PrecisionDoctor": lambda: {"callbacks": [PrecisionDoctor()]},
    MODULES: lambda: {"callbacks": [PrecisionDoctor()], "log_every_n_steps": 1},
    "MemoryDoctor": lambda: {"callbacks": [MemoryDoctor()]},
    "ExactResume": lambda: {"callbacks": [ExactResume()]},
    "ResumeGuard": lambda: {"callbacks": [ResumeGuard()]},
    LISTED: lambda: {"callbacks": listed()},
    LISTED_OFF: lambda: {"callbacks": listed(), "log_every_n_steps": 10**9},
    LISTED_LOGGED: lambda: {"callbacks": listed(), "log_every_n_steps": 1},
    RECIPE: lambda: {"callbacks": recipe("transformer", LRSchedule={"total": 10**6, "warmup": 0})},
    **{
        f'recipe("{kind}")': lambda kind=kind: {"callbacks": recipe(kind, LRSchedule={"total": 10**6, "warmup": 0})}
        for kind in ("cnn", "rnn", "finetune", "gan", "self_supervised")
    },
}
_STARTING = threading.Lock()
METHOD = (
    "Every row is a Trainer.fit in a thread of its own that waits in its data loader; blocks of steps of all rows take "
    "turns in shuffled order, one at a time. Ratio and added time: median over rounds of the paired value, with a 95 % "
    "bootstrap interval. All lanes are made anew, in another order, several times: where a thread's memory lies changes a "
    "step by more than a callback does. Batches are tensors in memory; the logger takes values and drops them; log_every_n_steps=50; "
    "no progress bar, no checkpoints. Rows with a window of 4 make one update in four steps: compare them with each other."
)


class LogGradNorm(L.Callback):
    """The recipe of Lightning's documentation."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pl_module.log_dict(grad_norm(pl_module, 2))


class ReadNorms(L.Callback):
    """What cannot be saved by whoever wants to know the norm: one pass of torch's fastest kernel over all gradients."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # type: ignore[arg-type]


class ClipByHand(L.Callback):
    """The least that a list of callbacks which sees batches, losses and updates and clips can do, written for this case.

    One norm, and a factor that the fused step takes or one multi-tensor product. No name, no check, no log, no count.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        nothing = lambda *_: None  # noqa: E731
        optimizer = trainer.optimizers[0]
        self.handles = [optimizer.register_step_pre_hook(nothing), optimizer.register_step_post_hook(nothing)]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None: ...

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None: ...

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # type: ignore[arg-type]
        coefficient = (1.0 / (total + 1e-6)).clamp_(max=1.0)
        if not optimizer.param_groups[0]["fused"]:
            torch._foreach_mul_(gradients, coefficient)
        elif total.is_cuda or coefficient.tolist() != 1.0:
            optimizer.grad_scale = coefficient.reciprocal()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        vars(trainer.optimizers[0]).pop("grad_scale", None)


class LogEachNorm(L.Callback):
    """The norm of each gradient by itself, logged each step: what Composer's OptimizerMonitor does."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        norms = {name: p.grad.norm() for name, p in pl_module.named_parameters() if p.grad is not None}
        total = torch.stack(list(norms.values())).norm()
        pl_module.log_dict(
            {**{f"l2_norm/grad/{name}": norm for name, norm in norms.items()}, "l2_norm/grad/global": total}
        )


def listed() -> list[Any]:
    """README's list without what ends before the first step (SanityCheck, LRFinder)."""
    schedule = LRSchedule("constant", total=10**6, warmup=0)
    watch = [LossScaleGuard(), PrecisionDoctor(), TrainingDoctor()]
    return [GradientMonitor(), GradientClip(1.0), schedule, GradientAccumulation(1), *watch]


class LookAgain(L.Callback):
    """Lets ``TrainingDoctor`` run the first batch again at every check, or at none; by itself, ever more seldom.

    Args:
        always: at every one.
    """

    def __init__(self, always: bool) -> None:
        self.always, self.looks = always, 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for doctor in (c for c in trainer.callbacks if isinstance(c, TrainingDoctor)):
            reference = doctor.probe.parts.reference
            reference.measure = self.instead_of(reference.measure)  # type: ignore[method-assign]

    def instead_of(self, measure: Callable[..., Any]) -> Callable[..., Any]:
        """Return what measures at a check in place of this."""
        often, never = 1, 2**40 + 1  # numbers of checks at which the batch is run again, and is not

        def measured(run: Any, device: torch.device, check: int, *, asked: bool = False) -> Any:
            self.looks += self.always
            return measure(run, device, often if self.always else never, asked=self.always)

        return measured


class Null(L.loggers.Logger):
    """Takes everything and keeps nothing: no row pays for a disk."""

    name, version = "null", 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...


class Module(L.LightningModule):
    """A workload under AdamW."""

    def __init__(self, net: nn.Module, fused: bool) -> None:
        super().__init__()
        self.net, self.fused = net, fused

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=self.fused, foreach=None if self.fused else True)


def trainer(accelerator: str, precision: str, **arguments: Any) -> L.Trainer:
    """A Trainer with nothing but the row in it."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    fixed = {"accelerator": accelerator, "devices": 1, "precision": precision, "max_epochs": 1, "log_every_n_steps": 50}
    return L.Trainer(**{"logger": Null(), **quiet, **fixed, **arguments})


def measure_times(
    model: str,
    fused: bool,
    accelerator: str,
    precision: str,
    options: argparse.Namespace,
    tick: Callable[[], None],
    enough: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, list[float]], dict[str, str], dict[str, dict[str, list[float]]], list[int]]:
    """Return seconds per step by row and round; the rows that were refused, with the message; seconds of CPU time of the
    Python thread and of the GPU, by row and round; and the session of each round."""
    refused: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in options.only}
    clocks: dict[str, dict[str, list[float]]] = {name: {} for name in options.only}
    planned, measured = sessions_of(options.rounds, options.sessions), list[int]()
    order = random.Random(0)
    for session in sorted(set(planned)):
        if enough():
            break
        names = [name for name in options.only if name not in refused]
        lanes = []
        try:
            for name in order.sample(names, len(names)):
                candidate = _lane(model, fused, accelerator, precision, name, options.threads)
                try:
                    candidate.block(2)
                    lanes.append(candidate)
                except Exception as error:
                    refused[name] = f"{type(error).__name__}: {error}"
            rounds = planned.count(session)
            for name, found in interleave(lanes, rounds, options.steps, options.steps, tick, session, enough).items():
                seconds[name] += found
            for lane in lanes:
                count = len(seconds[lane.name]) - len(measured)
                for clock in ("thread_seconds", "device_seconds"):
                    if values := getattr(lane.readings, clock)[-count:] if count else []:
                        clocks[lane.name].setdefault(clock, []).extend(values)
            measured += [session] * (len(seconds[lanes[0].name]) - len(measured) if lanes else 0)
        finally:
            for each in lanes:
                each.stop()
    return {name: found for name, found in seconds.items() if name not in refused}, refused, clocks, measured


def _lane(model: str, fused: bool, accelerator: str, precision: str, name: str, threads: int) -> Lane:
    net, batches = MODELS[model]()
    if accelerator == "cuda":  # no row pays for copies
        batches = [tuple(t.cuda() for t in batch) for batch in batches]

    def train(batches_in_turn: Any) -> None:
        with _STARTING:
            t = trainer(accelerator, precision, **ROWS[name]())
        t.fit(Module(net, fused), batches_in_turn)

    return Lane(name, train, batches, threads)


# -- what needs no clock ----------------------------------------------------------------------------------------------


class Sizes(TorchDispatchMode):
    """Adds up the new memory of every operation's results."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in known:
                self.largest, self.total = max(self.largest, t.nbytes), self.total + t.nbytes
        return result


class Between(L.Callback):
    """Switches something on before the row's callbacks have the gradients, and off after them."""

    def __init__(self, switch: Callable[[int], None]) -> None:
        self.switch = switch

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.switch(trainer.fit_loop.epoch_loop._batches_that_stepped)


class LastBetween(Between):
    """A class of its own, since Lightning tells callbacks apart by type."""


def _short_fit(model: str, accelerator: str, precision: str, steps: int, fused: bool = True, **arguments: Any) -> None:
    net, batches = MODELS[model]()
    t = trainer(accelerator, precision, **{**arguments, "max_steps": steps, "log_every_n_steps": 10_000})
    t.fit(Module(net, fused), DataLoader((batches * steps)[:steps], batch_size=None))


def memory(model: str, accelerator: str, precision: str) -> dict[str, float]:
    """Return the bytes that the hooks of both tricks allocate in a step that is not logged."""
    net, _ = MODELS[model]()
    gradients = sum(p.nbytes for p in net.parameters())
    sizes, stack = Sizes(), contextlib.ExitStack()

    def on(step: int) -> None:
        if step == 3:
            stack.enter_context(sizes)

    callbacks = [Between(on), GradientMonitor(), GradientClip(1.0), LastBetween(lambda step: stack.close())]
    _short_fit(model, accelerator, precision, 5, callbacks=callbacks)
    return {
        "gradient_bytes": gradients,
        "largest_allocation": sizes.largest,
        "all_allocations": sizes.total,
        "share_of_gradients": sizes.total / gradients,
    }


def host_reads(model: str, fused: bool, accelerator: str, precision: str) -> dict[str, float]:
    """Return host reads per step that is not logged, by row, beyond the bare Trainer's."""

    def count(row: str, steps: int) -> int:
        with Reads() as reads:
            _short_fit(model, accelerator, precision, steps, fused, **ROWS[row]())
        return reads.count

    def per_step(row: str) -> float:
        return (count(row, 12) - count(row, 6)) / 6

    bare = per_step(BARE)
    return {row: per_step(row) - bare for row in ("GradientMonitor", "GradientClip", BOTH)}


class Strict(L.Callback):
    """Makes torch refuse, in one whole step, whatever waits for the GPU."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx == 3 else "default")


class Lenient(L.Callback):
    """Ends that, behind all other callbacks."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("default")


def synchronizes(model: str, precision: str, tricks: list[Any], fused: bool = True) -> str | None:
    """Return torch's complaint when a step that is not logged waits for the GPU; None when it does not. CUDA only.

    Another error says that nothing was measured: running out of memory is no waiting.
    """
    try:
        _short_fit(model, "cuda", precision, 5, fused, callbacks=[Strict(), *tricks, Lenient()])
        return None
    except Exception as error:
        text = str(error)
        return text if "synchroniz" in text.lower() else f"not measured: {type(error).__name__}: {text}"[:200]
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- the table --------------------------------------------------------------------------------------------------------


def _row(
    model: str,
    optimizer: str,
    name: str,
    seconds: dict[str, list[float]],
    refused: dict[str, str],
    clocks: dict[str, dict[str, list[float]]],
    sessions: list[int],
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "optimizer": optimizer, "row": name}
    if name in refused:
        return {**row, "refused": refused[name]}
    hows = (lambda a, b: a / b, lambda a, b: (a - b) * 1e3)
    ratio, added = (paired(seconds, name, BARE, how, sessions) for how in hows)
    spread = median_interval([s * 1e3 for s in seconds[name]], sessions=sessions)
    for clock, values in clocks[name].items():
        row[clock.replace("_seconds", "_ms")] = 1e3 * statistics.median(values)
    return {
        **row,
        "milliseconds": vars(spread),
        "ratio": vars(ratio),
        "added_ms": vars(added),
        "seconds": seconds[name],
        "session": sessions,
    }


@dataclass(frozen=True)
class Goal:
    """What is to be reached on a model, with fused AdamW.

    Args:
        text: as the table has it.
        model: on which.
        row: whose cost it is.
        limit: of the value.
        floor: the row of what nobody who does this can save; "" where there is none.
        measure: ``"ratio"`` and ``"added_ms"`` over the bare Trainer, or the row whose added time is the unit.
    """

    text: str
    model: str
    row: str
    limit: float
    floor: str = ""
    measure: str = "ratio"


GOALS = (
    Goal("(a) monitor and clip add at most 0.45 of what gradient_clip_val adds", "a", BOTH, 0.45, FLOOR, CLIP_VAL),
    Goal("(b) monitor and clip cost at most 1.5 %", "b", BOTH, 1.015, FLOOR),
    Goal('(b) recipe("transformer") costs at most 2 %', "b", RECIPE, 1.02, FLOOR),
    *(
        Goal(f"({m}) README's list adds at most 0.15 ms off logged steps", m, LISTED_OFF, 0.15, BY_HAND, "added_ms")
        for m in "abc"
    ),
    Goal("(a) README's list adds at most 2 ms at a logged step", "a", LISTED_LOGGED, 2.0, BY_HAND, "added_ms"),
    Goal("(b) GradientAccumulation(4) over accumulate_grad_batches=4", "b", OUR_WINDOW, 1.01, "", THEIR_WINDOW),
    Goal("(c) LRSchedule adds at most 0.02 ms", "c", SCHEDULE, 0.02, "", "added_ms"),
)


def gates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals with what was measured, and with the floor below which nobody gets, where rows are there."""
    known = {(r["model"], r["row"]): r for r in rows if "refused" not in r and r["optimizer"] == "fused"}
    found = []
    for goal in GOALS:
        of = {name: known.get((goal.model, name)) for name in (goal.row, goal.floor, goal.measure, BARE)}
        row, floor = of[goal.row], of[goal.floor]
        if row is None or of[BARE] is None or (goal.measure in ROWS and of[goal.measure] is None):
            continue
        value = _value(goal, row, of)
        entry = {"gate": goal.text, "limit": goal.limit, **vars(value), "passed": value.value <= goal.limit}
        found.append(entry if floor is None else {**entry, "floor": vars(_value(goal, floor, of))})
    return found


def _value(goal: Goal, row: dict[str, Any], of: dict[str, dict[str, Any] | None]) -> Estimate:
    if goal.measure in ("ratio", "added_ms"):
        return Estimate(**row[goal.measure])
    unit, bare = of[goal.measure], of[BARE]
    assert unit is not None and bare is not None
    if goal.measure == CLIP_VAL:
        return share_of_added(row["seconds"], unit["seconds"], bare["seconds"], bare.get("session"))
    both = {goal.row: row["seconds"], goal.measure: unit["seconds"]}
    return paired(both, goal.row, goal.measure, lambda a, b: a / b, bare.get("session"))


def share_of_added(
    both: list[float], clip: list[float], bare: list[float], sessions: Sequence[int] | None = None
) -> Estimate:
    """Ratio of two small differences: medians are divided, since a single round's denominator may be near 0."""
    draw, rounds = random.Random(0), range(len(bare))

    def share(picked: Sequence[int]) -> float:
        top = statistics.median(both[i] - bare[i] for i in picked)
        return top / max(1e-9, statistics.median(clip[i] - bare[i] for i in picked))

    of = [0] * len(bare) if sessions is None else list(sessions)
    groups = [[i for i in rounds if of[i] == s] for s in sorted(set(of))]

    def drawn() -> list[int]:
        picked = draw.choices(groups, k=len(groups)) if len(groups) > 1 else groups
        return [i for group in picked for i in draw.choices(group, k=len(group))]

    resampled = sorted(share(drawn()) for _ in range(2000))
    return Estimate(share(rounds), resampled[50], resampled[1949])


def markdown(result: dict[str, Any]) -> str:
    """Return the tables of a result."""
    lines = [f"# Overhead of the callbacks\n\n`{result['command']}`\n"]
    hardware = result["environment"]
    lines.append(
        f"{hardware['gpu'] or hardware['cpu']}, torch {hardware['torch']}, lightning {hardware['lightning']}. {result['method']}\n"
    )
    rows = []
    for r in result["rows"]:
        cells = ["refused: " + r["refused"][:80], "", "", "", ""] if "refused" in r else [
            "{value:.2f}".format(**r["milliseconds"]),
            "{value:.3f} [{low:.3f}, {high:.3f}]".format(**r["ratio"]),
            "{value:+.3f}".format(**r["added_ms"]),
            *(f"{r[clock]:.2f}" if clock in r else "-" for clock in ("thread_ms", "device_ms")),
        ]  # fmt: skip
        rows.append([r["model"], r["optimizer"], r["row"], *cells])
    lines.append(
        table(
            [
                "model",
                "AdamW",
                "in the Trainer",
                "ms per step",
                "ratio to bare [95 %]",
                "added ms",
                "CPU ms of the thread",
                "GPU ms",
            ],
            rows,
        )
        + "\n"
    )
    if not result.get("complete", True):
        lines.append("**Not complete: the run was interrupted, or goes on.**\n")
    lines += [f"**Not measured: {name}. {why}**\n" for name, why in result.get("failures", {}).items()]
    goals = [
        [
            g["gate"],
            f"{g['limit']}",
            _shown(g),
            _shown(g["floor"]) if "floor" in g else "-",
            _reached(g),
        ]
        for g in result["gates"]
    ]
    lines.append(
        table(["to reach, with fused AdamW", "limit", "measured [95 %]", "floor [95 %]", "reached"], goals) + "\n"
    )
    if any("floor" in g for g in result["gates"]):
        lines.append(
            f'The floor is what the same machine needed in the same rounds for "{FLOOR}", or for "{BY_HAND}" where README\'s list is judged.\n'
        )
    for model, m in result["memory"].items():
        lines.append(
            f"Memory, model {model}: a step that is not logged allocates {m['all_allocations']:,} bytes in our hooks, "
            f"{m['share_of_gradients']:.2%} of the gradients' {m['gradient_bytes']:,}; the largest piece is {m['largest_allocation']:,}."
        )
    reads = [[key, row, f"{n:g}"] for key, by_row in result["host_reads"].items() for row, n in by_row.items()]
    lines.append("\n" + table(["AdamW", "in the Trainer", "host reads per step that is not logged"], reads))
    for model, complaint in result["synchronizes"].items():
        lines.append(f"\nWaits for the GPU, model {model}: {complaint or 'no (set_sync_debug_mode error)'}")
    return "\n".join(lines) + "\n"


def _reached(goal: dict[str, Any]) -> str:
    if goal["passed"]:
        return "yes"
    return "no: below the floor" if "floor" in goal and goal["floor"]["low"] > goal["limit"] else "NO"


def _shown(estimate: dict[str, Any]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**estimate)


def main(arguments: Sequence[str]) -> int:
    """Measure, print and save; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run overhead", description=__doc__)
    parser.add_argument("--profile", choices=["cpu", "gpu"], default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", default=None, help=f"comma-separated, of {', '.join(MODELS)}")
    parser.add_argument("--only", default=None, help="comma-separated parts of row names; the bare Trainer always runs")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=5, help="how often the lanes are made anew")
    parser.add_argument("--steps", type=int, default=20, help="steps in a block")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--out", type=out_path, default=None)
    parser.add_argument("--quick", action="store_true", help="5 rounds of 5 steps of one model: to see that it runs")
    options = parser.parse_args(arguments)
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {options.rounds}: must be at least {LEAST_ROUNDS}, since the interval of fewer blocks covers less than it says.")  # fmt: skip
    if options.sessions < 1:
        parser.error(f"--sessions {options.sessions}: must be at least 1.")
    if options.sessions > options.rounds // 2:  # a session of one round is not worth its warm-up
        options.sessions = options.rounds // 2
    gpu = options.profile == "gpu"
    if gpu and not torch.cuda.is_available():
        parser.error("--profile gpu: there is no CUDA device here. Use --profile cpu")
    models = (options.models or ("a,b,c,d,resnet18,transformer" if gpu else "a,b,c")).split(",")
    unknown = [m for m in models if m not in MODELS]
    if unknown:
        parser.error(f"--models {','.join(unknown)}: not one of {', '.join(MODELS)}")
    if options.quick:
        models = models if options.models else ["a"]
        options.rounds, options.steps, options.sessions = 5, 5, 1
    parts = options.only.split(",") if options.only else [""]
    options.only = [name for name in ROWS if name == BARE or any(part in name for part in parts)]
    out = options.out or FOLDER / f"overhead-{options.profile}.json"

    with loggers_silent(), _put_back(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = _measure(models, gpu, options, lambda found: save(found, out, markdown(found)))
    text = markdown(result)
    save(result, out, text)
    console = Console(width=140)
    console.print(text, markup=False, highlight=False)
    console.print(f"written: {out} and {out.with_suffix('.md').name}", highlight=False)
    return 0


def _measure(
    models: list[str], gpu: bool, options: argparse.Namespace, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure one part after the other; ``keep`` writes the result after each. A part that fails is noted."""
    accelerator = "cuda" if gpu else "cpu"
    torch.set_num_threads(options.threads)
    plan = [(m, fused, "32-true") for m in models for fused in (True, False)]
    if gpu:
        plan += [(m, True, p) for m in models if m in ("resnet18", "transformer") for p in ("bf16-mixed", "16-mixed")]
    result: dict[str, Any] = {
        "table": "overhead",
        "command": "python -m benchmarks run overhead "
        + " ".join(sys.argv[sys.argv.index("overhead") + 1 :] if "overhead" in sys.argv else []),
        "date": time.strftime("%Y-%m-%d"),
        "environment": {**describe(), "threads": options.threads, "device": options.profile},
        "method": METHOD,
        "rounds": options.rounds,
        "sessions": options.sessions,
        "steps_per_block": options.steps,
        "complete": False,
        "rows": [],
        "gates": [],
        "memory": {},
        "host_reads": {},
        "synchronizes": {},
        "failures": {},
    }

    def part(name: str, measure: Callable[[], Any]) -> Any:
        try:
            return measure()
        except Exception as error:
            result["failures"][name] = f"{type(error).__name__}: {error}"[:300]
            return None
        finally:
            keep(result)

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("overhead", total=len(plan) * options.rounds)
        tick = lambda: progress.advance(task)  # noqa: E731
        for model, fused, precision in plan:
            optimizer = ("fused" if fused else "foreach") + ("" if precision == "32-true" else f", {precision}")

            def times(model: str = model, fused: bool = fused, precision: str = precision, o: str = optimizer) -> None:
                found = measure_times(model, fused, accelerator, precision, options, tick)
                result["rows"] += [_row(model, o, name, *found) for name in options.only]
                result["gates"] = gates(result["rows"])

            part(f"{model}, {optimizer}", times)
    both = [GradientMonitor(), GradientClip(1.0)]
    for name, what, measure in (
        *((m, "memory", lambda m=m: memory(m, accelerator, "32-true")) for m in models),
        *(
            ("fused" if f else "foreach", "host_reads", lambda f=f: host_reads(models[0], f, accelerator, "32-true"))
            for f in (True, False)
        ),
        *((m, "synchronizes", lambda m=m: synchronizes(m, "32-true", both)) for m in models if gpu),
    ):
        if (found := part(f"{what}, {name}", measure)) is not None or what == "synchronizes":
            result[what][name] = found
    result["complete"] = True
    keep(result)
    return result


@contextlib.contextmanager
def _put_back() -> Iterator[None]:
    """Leave torch's global settings as they were."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
