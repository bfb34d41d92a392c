"""Measuring one workload in all precisions: each alone for memory and gradients, then all in turns for time."""

from __future__ import annotations

import gc
import math
import random
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.ceilings import datasheet
from benchmarks.counting import Roofline, model_flops
from benchmarks.measure import LEAST_ROUNDS, Lane, TooLittleTimeError, interleave, median_interval, paired, sessions_of
from benchmarks.overhead import trainer
from benchmarks.settings import BASES, DEFAULT, Setting
from benchmarks.workloads import Storage, Workload, on_device
from lightning_tricks import GradientClip, GradientMonitor, LossScaleGuard, LRSchedule, PrecisionDoctor
from lightning_tricks.precision.peak_memory import LiveTensors, held_tensors

_STARTING = threading.Lock()
_BUSY = 0.85  # of the wall's time in which kernels run: below, the GPU waits for the host
_OF_THE_PROBE = ("peak_bytes", "reserved_bytes", "driver_bytes", "roofline_seconds", "bytes_moved", "seen_flops", "gradient_cosine")  # fmt: skip
_INIT_SCALE = 2.0**16
CADENCE = 50  # Lightning's default distance of logged steps
_PROBE_STEPS = 24


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Args:
        rounds: blocks per cell.
        seconds: per block, about.
        least_steps: per block.
        sessions: how often all lanes are made again.
    """

    rounds: int
    seconds: float
    least_steps: int
    sessions: int


def pack() -> list[L.Callback]:
    """Our callbacks, all that can be left switched on in every run."""
    guard = LossScaleGuard()
    schedule = LRSchedule("constant", total=10**6, warmup=0)
    return [GradientMonitor(), GradientClip(1.0), schedule, guard, PrecisionDoctor()]


def settings_for(workload: Workload, precisions: Sequence[str], gpu: bool = False) -> list[Setting]:
    """The columns of a workload.

    Every precision without our callbacks; the first one again, as a measure of the noise; one with the pack, off and at
    logged steps; the weight cache where modules are called several times; on a GPU the other layout of images.
    """
    kept = [p for p in precisions if not (workload.waits and p in ("bf16-true", DEFAULT))]
    out = [Setting(p) for p in kept]
    mixed = next((p for p in ("bf16-mixed", "16-mixed", precisions[0]) if p in precisions), precisions[0])
    if not workload.waits:
        out += [Setting(kept[0], again=True), *(Setting(mixed, pack=when) for when in ("off", "logged"))]
    if workload.shares_modules:
        out += [Setting(p, cached=True) for p in ("bf16-mixed", "16-mixed") if p in precisions]
    if gpu and workload.images and not workload.waits:
        out += [Setting(p, contiguous=True) for p in ("tf32", "bf16-mixed") if p in precisions]
    return out


def measure(
    workload: Workload,
    settings: Sequence[Setting],
    device: torch.device,
    plan: Plan,
    ceilings: dict[str, Any],
    *,
    fused: bool = False,
    tick: Callable[[str], None] = lambda text: None,
    enough: Callable[[], bool] = lambda: False,
    meter: Callable[[], float | None] = lambda: None,
) -> list[dict[str, Any]]:
    """Return one dict per cell; those that could not be measured say why.

    Args:
        workload: what is trained.
        settings: the columns.
        device: where.
        plan: how long.
        ceilings: of the machine.
        fused: fused optimizers, else torch's own choice.
        tick: told what is measured.
        enough: no round begins after it says True.
        meter: a counter of energy in joules.

    Raises:
        TooLittleTimeError: it said so before there were enough rounds for an interval.
    """
    cells = {s.name: _cell(workload, s) for s in settings}
    usable = []
    batches = on_device(workload.batches(), device)
    reference: Tensor | None = None
    for setting in settings:
        cell = cells[setting.name]
        if reason := setting.missing(device):
            cell.update(status="unavailable", reason=reason)
            continue
        twin = cells.get(Setting(setting.precision).name, {})
        if (setting.again or setting.pack == "logged") and "peak_bytes" in twin:  # what takes no clock is the same
            cell.update({key: twin[key] for key in _OF_THE_PROBE if key in twin})
            usable.append(setting)
            continue
        tick(f"{workload.name} {setting.name}: memory")
        try:
            probe = _alone(workload, setting, batches, device, ceilings, fused)
        except Exception as error:
            cell.update(_failure(error))
            continue
        finally:
            _free(device)
        if reference is None and setting.precision == "ieee-fp32":
            reference = probe.gradient
        cell.update(probe.found)
        if reference is not None and probe.gradient is not None:
            pair = (t.double() for t in (probe.gradient, reference))
            cell["gradient_cosine"] = float(torch.nn.functional.cosine_similarity(*pair, dim=0))
        usable.append(setting)
    with torch.random.fork_rng():
        flops = model_flops(workload.make(False), batches[0])
    rounds = _times(workload, usable, batches, device, plan, cells, fused, tick, enough, meter)
    if len(rounds) < min(LEAST_ROUNDS, plan.rounds) and any(c["status"] == "ok" for c in cells.values()):
        raise TooLittleTimeError(f"{len(rounds)} rounds were measured; an interval needs {LEAST_ROUNDS}")
    for cell in cells.values():
        if cell["status"] == "ok":
            _rates(cell, workload, flops, ceilings, device, rounds)
    _ratios(cells, rounds)
    return list(cells.values())


def _cell(workload: Workload, setting: Setting) -> dict[str, Any]:
    return {
        "workload": workload.name,
        "setting": setting.name,
        "precision": setting.precision,
        "cached": setting.cached,
        "pack": setting.pack,
        "role": setting.role,
        "status": "ok",
    }


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, torch.OutOfMemoryError):
        return {"status": "out of memory", "reason": "out of memory"}
    first = (str(error).splitlines() or [""])[0]
    return {"status": "error", "reason": f"{type(error).__name__}: {first}"[:200]}


def failed(workload: Workload, settings: Sequence[Setting], error: Exception) -> list[dict[str, Any]]:
    """Return the cells of a workload that could not be measured at all, which say why."""
    return [{**_cell(workload, setting), **_failure(error)} for setting in settings]


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def quiet_trainer(setting: Setting, device: torch.device, callbacks: list[Any], **more: Any) -> L.Trainer:
    """A Trainer with nothing but the setting and these callbacks in it."""
    arguments = {**setting.trainer(device), "callbacks": callbacks, **more}
    precision = arguments.pop("precision", None)
    return trainer("gpu" if device.type == "cuda" else "cpu", precision, **arguments)


class _Probe(L.Callback):
    """Steps alone, on one batch: the first finite gradient, then the peak of memory, then the work of a step.

    Under 16-mixed the first steps may be skipped: weights have not moved then, and the optimizer has no state yet.
    """

    def __init__(self, device: torch.device, ceilings: dict[str, Any], setting: Setting) -> None:
        self.device = device
        self.gradient: Tensor | None = None
        self.found: dict[str, Any] = {}
        flops = ceilings["flops"]
        single = flops.get("tf32" if setting.precision == "tf32" else "ieee-fp32")
        of_dtype = {
            torch.float32: single,
            torch.float16: flops.get("16-mixed"),
            torch.bfloat16: flops.get("bf16-mixed"),
        }
        self._roof = Roofline({k: v for k, v in of_dtype.items() if v}, ceilings["bytes_per_second"])
        self._live = LiveTensors()
        self._phase = "first steps"
        self._before = 0

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if self.gradient is None:
            parts = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
            found = torch.cat([g.detach().float().flatten().cpu() for g in parts])
            self.gradient = found if bool(found.isfinite().all()) else None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.gradient is None:
            torch.manual_seed(0)
        if self._phase == "first steps" and batch_idx >= 2 and all(o.state for o in trainer.optimizers):
            self._phase = "memory"
            self._begin_memory(trainer, module)
        elif self._phase == "measured":
            self._phase = "work"
            self._roof.__enter__()

    def _begin_memory(self, trainer: Any, module: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        self._before = sum(t.nbytes for t in held_tensors(module, trainer.optimizers))
        self._live.__enter__()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._phase == "memory":
            self._phase = "measured"
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
                self.found["peak_bytes"] = torch.cuda.max_memory_allocated(self.device) - self._before
                self.found["reserved_bytes"] = torch.cuda.max_memory_reserved(self.device)
                free, total = torch.cuda.mem_get_info(self.device)
                self.found["driver_bytes"] = total - free  # of the whole device, other processes included
            else:
                self._live.__exit__(None, None, None)
                self.found["peak_bytes"] = self._before + self._live.peak
        elif self._phase == "work":
            self._roof.__exit__(None, None, None)
            seconds, seen = self._roof.seconds, self._roof.seen_flops
            self.found.update(roofline_seconds=seconds, bytes_moved=self._roof.bytes, seen_flops=seen)
            self._phase, trainer.should_stop = "done", True


def _alone(
    workload: Workload,
    setting: Setting,
    batches: list[Any],
    device: torch.device,
    ceilings: dict[str, Any],
    fused: bool,
) -> _Probe:
    probe = _Probe(device, ceilings, setting)
    module, batches = _made(workload, setting, batches, device, fused)
    torch.manual_seed(0)
    if device.type == "cuda":
        _free(device)
        probe._before = torch.cuda.memory_allocated(device)
    with setting.flags():
        t = quiet_trainer(setting, device, [*(pack() if setting.pack else []), probe], max_steps=-1)
        t.fit(module, DataLoader([batches[0]] * _PROBE_STEPS, batch_size=None))  # type: ignore[arg-type]
    if "peak_bytes" not in probe.found or "roofline_seconds" not in probe.found:
        raise RuntimeError(f"no update happened in {_PROBE_STEPS} steps: every one was skipped")
    return probe


def _times(
    workload: Workload,
    settings: Sequence[Setting],
    batches: list[Any],
    device: torch.device,
    plan: Plan,
    cells: dict[str, dict[str, Any]],
    fused: bool,
    tick: Callable[[str], None],
    enough: Callable[[], bool],
    meter: Callable[[], float | None],
) -> list[int]:
    """Fill in seconds per step; return the session of each round.

    Lanes are made again in each session, in another order: where memory lies biases a lane.
    """
    steps: dict[str, int] = {}
    planned, measured = sessions_of(plan.rounds, plan.sessions), list[int]()
    seconds: dict[str, list[float]] = {s.name: [] for s in settings}
    delay, order = 0.0, random.Random(0)
    for session in sorted(set(planned)):
        if enough():
            break
        lanes: list[Lane] = []
        scalers: dict[str, Any] = {}
        alive = [s for s in settings if cells[s.name]["status"] == "ok"]
        try:
            # the first session begins with the baseline, whose pace the slow store follows
            for setting in alive if session == 0 else order.sample(alive, len(alive)):
                tick(f"{workload.name} {setting.name}: warm-up")
                store = Storage(batches, delay) if workload.waits else batches
                try:
                    lane = _lane(workload, setting, store, device, scalers, fused)
                    lane.block(3)
                    pilot = lane.block(3) if session == 0 else 0.0
                except Exception as error:
                    cells[setting.name].update(_failure(error))
                    _free(device)
                    continue
                lanes.append(lane)
                if workload.waits and not delay:
                    delay = workload.waits * pilot
                    store._seconds = delay  # type: ignore[union-attr]
                # the first batch of a block has been waiting: several more must not have
                least = max(plan.least_steps, 6 if workload.waits else 1)
                steps.setdefault(setting.name, max(least, math.ceil(plan.seconds / max(pilot, delay, 1e-9))))
            # the block that is not timed pays for the memory that every new Trainer gives back to the device
            told = partial(tick, f"{workload.name}: time")
            times = interleave(lanes, planned.count(session), steps, 2, told, session, enough, meter)
            measured += [session] * len(times[lanes[0].name] if lanes else ())
            for lane in lanes:
                seconds[lane.name] += times[lane.name]
                count = len(times[lane.name])
                for key in ("device_seconds", "thread_seconds", "joules"):  # the GPU's own clock, beside the wall's
                    if found := getattr(lane.readings, key)[-count:] if count else []:
                        cells[lane.name].setdefault(key, []).extend(found)
                _note_lane(cells[lane.name], lane, scalers[lane.name], device)
        finally:
            for lane in lanes:
                lane.stop()
            del lanes
            _free(device)
    for name, found in seconds.items():
        cells[name].update(seconds=found, steps_per_block=steps.get(name))
        if workload.waits:
            cells[name]["store_seconds"] = delay
    return measured


def launch_bound(busy: float | None, caught_up: float | None) -> bool | None:
    """Whether a GPU waits for the host: by the share of time in which kernels run; None where nothing is known.

    Where no profile could be taken: by the share of steps at whose end the step before was done already.

    >>> launch_bound(0.4, None), launch_bound(0.97, 1.0), launch_bound(None, 0.9), launch_bound(None, None)
    (True, False, True, None)
    """
    if busy is not None:
        return busy < _BUSY
    return None if caught_up is None else caught_up > 0.5


def _note_lane(cell: dict[str, Any], lane: Lane, scaler: Any, device: torch.device) -> None:
    cell["host_share"] = lane.readings.host_share
    if device.type == "cuda":
        if "kernel_seconds" not in cell:
            cell["kernel_seconds"] = lane.kernel_seconds()
        kernels = cell["kernel_seconds"]
        cell["busy"] = None if kernels is None else kernels / statistics.median(lane.readings.device_seconds)
        cell["launch_bound"] = launch_bound(cell["busy"], lane.readings.caught_up)
    if cell["precision"] == "16-mixed" and scaler is not None:
        # fewer than 2,000 steps, after which a scale may grow: each halving was a skipped step
        cell["loss_scale"] = scale = float(scaler.get_scale())
        cell["skipped_steps"] = cell.get("skipped_steps", 0) + max(0, round(math.log2(_INIT_SCALE / scale)))


def _made(
    workload: Workload, setting: Setting, batches: Any, device: torch.device, fused: bool
) -> tuple[L.LightningModule, Any]:
    """Return module and batches in the layout of the setting, compiled where it says so."""
    module = workload.make(fused)
    if workload.images and device.type == "cuda":
        layout = torch.contiguous_format if setting.contiguous else torch.channels_last
        module.to(memory_format=layout)  # type: ignore[call-overload]
        if isinstance(batches, list) and setting.contiguous:
            batches = [tuple(t.contiguous() if t.ndim == 4 else t for t in batch) for batch in batches]
    if setting.compiled:
        for part in module.children():
            part.compile()  # type: ignore[no-untyped-call]
    return module, batches


def _lane(
    workload: Workload, setting: Setting, store: Any, device: torch.device, scalers: dict[str, Any], fused: bool
) -> Lane:
    module, store = _made(workload, setting, store, device, fused)
    scalers[setting.name] = None

    def train(batches_in_turn: Any) -> None:
        with _STARTING:
            t = quiet_trainer(setting, device, pack() if setting.pack else [])
            scalers[setting.name] = getattr(t.precision_plugin, "scaler", None)
        t.fit(module, batches_in_turn)

    return Lane(setting.name, train, store, torch.get_num_threads(), around=setting.flags)


def _rates(
    cell: dict[str, Any],
    workload: Workload,
    flops: int,
    ceilings: dict[str, Any],
    device: torch.device,
    sessions: list[int],
) -> None:
    seconds = statistics.median(cell["seconds"])
    cell["session"] = sessions
    cell["milliseconds"] = vars(median_interval([1e3 * s for s in cell["seconds"]], sessions=sessions))
    cell["bandwidth_share"] = cell["bytes_moved"] / seconds / ceilings["bytes_per_second"]
    if cell.get("joules"):
        cell["joules_per_item"] = statistics.median(cell["joules"]) / workload.items
    cell["per_second"], cell["unit"] = workload.items / seconds, workload.unit
    cell["flops"] = flops
    ceiling = ceilings["flops"][cell["precision"]]
    peak = datasheet(torch.cuda.get_device_name(device) if device.type == "cuda" else None, cell["precision"])
    cell["mfu_datasheet"] = None if peak is None else flops / seconds / peak
    cell["mfu_ceiling"] = flops / seconds / ceiling
    # operations whose FLOPs torch does not count where they run, as an LSTM's
    roof = cell.pop("roofline_seconds") + max(0, flops - cell.pop("seen_flops")) / ceiling
    cell["roofline_share"] = roof / seconds


def _ratios(cells: dict[str, dict[str, Any]], sessions: list[int]) -> None:
    times = {name: cell["seconds"] for name, cell in cells.items() if cell["status"] == "ok"}

    def over(name: str, base: str, how: Callable[[float, float], float]) -> dict[str, float]:
        return vars(paired(times, name, base, how, sessions))

    for name, cell in cells.items():
        if cell["status"] != "ok":
            continue
        for base in BASES:
            if base in times:
                cell[f"faster_than_{base}"] = over(name, base, lambda own, other: other / own)
                cell[f"memory_of_{base}"] = cell["peak_bytes"] / cells[base]["peak_bytes"]
        plain = cell["precision"]
        if plain not in times:
            continue
        if cell["cached"]:
            cell["faster_than_uncached"] = over(name, plain, lambda own, other: other / own)
            cell["memory_of_uncached"] = cell["peak_bytes"] / cells[plain]["peak_bytes"]
        if cell["role"] in ("again", "compile", "layout"):
            cell["faster_than_main"] = over(name, plain, lambda own, other: other / own)
    for name in times:
        off, logged = f"{name}+pack", f"{name}+pack logged"
        if off in times and logged in times:
            cells[name].update(_pack_cost(times[name], times[off], times[logged], sessions))


def _pack_cost(bare: list[float], off: list[float], logged: list[float], sessions: list[int]) -> dict[str, Any]:
    """Return what the pack costs in steps that are not logged, in logged ones, and at Lightning's default cadence."""
    mixed = [(a * (CADENCE - 1) + b) / CADENCE for a, b in zip(off, logged, strict=True)]
    out: dict[str, Any] = {}
    for name, own in (("", mixed), ("_off", off), ("_logged", logged)):
        lanes = {"own": own, "bare": bare}
        out[f"pack_cost{name}"] = vars(paired(lanes, "own", "bare", lambda a, b: a / b, sessions))
        out[f"pack_milliseconds{name}"] = vars(paired(lanes, "own", "bare", lambda a, b: 1e3 * (a - b), sessions))
    return out
