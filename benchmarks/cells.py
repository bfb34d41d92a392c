"""Measuring one workload in all precisions: each alone for memory and gradients, then all in turns for time."""

from __future__ import annotations

import gc
import math
import random
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.ceilings import datasheet
from benchmarks.counting import Roofline, model_flops
from benchmarks.measure import Lane, interleave, median_interval, paired
from benchmarks.overhead import trainer
from benchmarks.settings import BASES, Setting
from benchmarks.workloads import Storage, Workload, on_device
from lightning_tricks import GradientClip, GradientMonitor, LossScaleGuard, LRSchedule, PrecisionDoctor
from lightning_tricks.precision.peak_memory import LiveTensors, held_tensors

_STARTING = threading.Lock()
_LAUNCH_BOUND = 0.85
_PROBE_STEPS = 24


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Args:
        rounds: blocks per cell.
        seconds: per block, about.
        least_steps: per block.
        sessions: how often all lanes are made anew.
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


def settings_for(workload: Workload, precisions: Sequence[str]) -> list[Setting]:
    """The columns of a workload: every precision with the pack, one of them bare, and the cache where it matters."""
    out = [Setting(p) for p in precisions if not (workload.waits and p == "bf16-true")]
    mixed = next((p for p in ("bf16-mixed", "16-mixed", precisions[0]) if p in precisions), precisions[0])
    if not workload.waits:
        out.append(Setting(mixed, pack=False))
    if workload.shares_modules:
        out += [Setting(p, cached=True) for p in ("bf16-mixed", "16-mixed") if p in precisions]
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
) -> list[dict[str, Any]]:
    """Return one dict per cell; those that could not be measured say why."""
    cells = {s.name: _cell(workload, s) for s in settings}
    usable = []
    batches = on_device(workload.batches(), device)
    reference: Tensor | None = None
    for setting in settings:
        cell = cells[setting.name]
        if reason := setting.missing(device):
            cell.update(status="unavailable", reason=reason)
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
    _times(workload, usable, batches, device, plan, cells, fused, tick)
    for cell in cells.values():
        if cell["status"] == "ok":
            _rates(cell, workload, flops, ceilings, device)
    _ratios(cells)
    return list(cells.values())


def _cell(workload: Workload, setting: Setting) -> dict[str, Any]:
    return {
        "workload": workload.name,
        "setting": setting.name,
        "precision": setting.precision,
        "cached": setting.cached,
        "pack": setting.pack,
        "status": "ok",
    }


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, torch.OutOfMemoryError):
        return {"status": "out of memory", "reason": "out of memory"}
    first = (str(error).splitlines() or [""])[0]
    return {"status": "error", "reason": f"{type(error).__name__}: {first}"[:200]}


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
    module = workload.make(fused)
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
) -> None:
    """Fill in seconds per step. Lanes are made anew in each session, in another order: where memory lies biases a lane."""
    steps: dict[str, int] = {}
    seconds: dict[str, list[float]] = {s.name: [] for s in settings}
    delay, order = 0.0, random.Random(0)
    for session in range(plan.sessions):
        lanes: list[Lane] = []
        callbacks: dict[str, list[Any]] = {}
        alive = [s for s in settings if cells[s.name]["status"] == "ok"]
        try:
            # the first session begins with the baseline, whose pace the slow store follows
            for setting in alive if session == 0 else order.sample(alive, len(alive)):
                tick(f"{workload.name} {setting.name}: warm-up")
                store = Storage(batches, delay) if workload.waits else batches
                try:
                    lane = _lane(workload, setting, store, device, callbacks, fused)
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
            rounds = plan.rounds * (session + 1) // plan.sessions - plan.rounds * session // plan.sessions
            times = interleave(lanes, rounds, steps, 0, lambda: tick(f"{workload.name}: time"), seed=session)
            for lane in lanes:
                seconds[lane.name] += times[lane.name]
                if lane.device_seconds:  # the GPU's own clock, beside the wall's
                    known = cells[lane.name].setdefault("device_seconds", [])
                    known += lane.device_seconds[-len(times[lane.name]) :]
                _note_lane(cells[lane.name], lane, callbacks[lane.name], device)
        finally:
            for lane in lanes:
                lane.stop()
            del lanes
            _free(device)
    for name, found in seconds.items():
        cells[name].update(seconds=found, steps_per_block=steps.get(name))
        if workload.waits:
            cells[name]["store_seconds"] = delay


def _note_lane(cell: dict[str, Any], lane: Lane, callbacks: list[Any], device: torch.device) -> None:
    cell["host_share"] = lane.host_share
    cell["launch_bound"] = device.type == "cuda" and lane.host_share > _LAUNCH_BOUND
    guard = next((c for c in callbacks if isinstance(c, LossScaleGuard)), None)
    if cell["precision"] == "16-mixed" and guard is not None:
        scale = guard.run.loss_scale.scale()
        cell["skipped_steps"] = cell.get("skipped_steps", 0) + guard.skipped_steps
        cell["loss_scale"] = None if scale is None else float(scale)


def _lane(
    workload: Workload, setting: Setting, store: Any, device: torch.device, callbacks: dict[str, list[Any]], fused: bool
) -> Lane:
    module = workload.make(fused)
    callbacks[setting.name] = pack() if setting.pack else []

    def train(batches_in_turn: Any) -> None:
        with _STARTING:
            t = quiet_trainer(setting, device, callbacks[setting.name])
        t.fit(module, batches_in_turn)

    return Lane(setting.name, train, store, torch.get_num_threads(), around=setting.flags)


def _rates(
    cell: dict[str, Any], workload: Workload, flops: int, ceilings: dict[str, Any], device: torch.device
) -> None:
    seconds = statistics.median(cell["seconds"])
    cell["milliseconds"] = vars(median_interval([1e3 * s for s in cell["seconds"]]))
    cell["per_second"], cell["unit"] = workload.items / seconds, workload.unit
    cell["flops"] = flops
    ceiling = ceilings["flops"][cell["precision"]]
    peak = datasheet(torch.cuda.get_device_name(device) if device.type == "cuda" else None, cell["precision"])
    cell["mfu_datasheet"] = None if peak is None else flops / seconds / peak
    cell["mfu_ceiling"] = flops / seconds / ceiling
    # operations whose FLOPs torch does not count where they run, as an LSTM's
    roof = cell.pop("roofline_seconds") + max(0, flops - cell.pop("seen_flops")) / ceiling
    cell["roofline_share"] = roof / seconds


def _ratios(cells: dict[str, dict[str, Any]]) -> None:
    times = {name: cell["seconds"] for name, cell in cells.items() if cell["status"] == "ok"}
    for name, cell in cells.items():
        if cell["status"] != "ok":
            continue
        for base in BASES:
            if base in times:
                cell[f"faster_than_{base}"] = vars(paired(times, name, base, lambda own, other: other / own))
                cell[f"memory_of_{base}"] = cell["peak_bytes"] / cells[base]["peak_bytes"]
        bare = f"{cell['precision']} bare"
        if cell["pack"] and not cell["cached"] and bare in times:
            cell["pack_cost"] = vars(paired(times, name, bare, lambda own, other: own / other))
            cell["pack_milliseconds"] = vars(paired(times, name, bare, lambda own, other: 1e3 * (own - other)))
        if cell["cached"] and cell["precision"] in times:
            plain = cell["precision"]
            cell["faster_than_uncached"] = vars(paired(times, name, plain, lambda own, other: other / own))
            cell["memory_of_uncached"] = cell["peak_bytes"] / cells[plain]["peak_bytes"]
