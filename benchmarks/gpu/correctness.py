"""Is what the callbacks do right on this device? Each task compares with plain torch, or with the same run without them."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from benchmarks.counting import Reads
from benchmarks.gpu import problems
from benchmarks.gpu.problems import LARGEST_NORM, NETS, PRECISIONS, STEPS, WINDOW, Module, network
from benchmarks.gpu.rows import Clock, Context, Task, UnavailableError, measured
from benchmarks.quiet import loggers_silent
from lightning_tricks import (
    ExactResume,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRFinder,
    LRSchedule,
    MemoryDoctor,
    PrecisionDoctor,
    SanityCheck,
    TrainingDoctor,
)

# of the way that the weights go in training: the same arithmetic in another order, in the precision of each
TOLERANCES = {"ieee-fp32": 1e-4, "tf32": 2e-3, "bf16-mixed": 2e-2, "16-mixed": 5e-3}
OBSERVERS: dict[str, Callable[[], Any]] = {
    "GradientMonitor": lambda: GradientMonitor(every_n_steps=5),
    "PrecisionDoctor": lambda: PrecisionDoctor(every_n_steps=5),
    "TrainingDoctor": lambda: TrainingDoctor(every_n_steps=5),
    "MemoryDoctor": lambda: MemoryDoctor(every_n_steps=5),
    "LossScaleGuard": LossScaleGuard,
    "SanityCheck": SanityCheck,
    "LRFinder(apply=False)": lambda: LRFinder(apply=False, num_steps=20),
}


def tasks(context: Context) -> list[Task]:
    """Return the tasks of this part: of each kind the first one before the second ones."""
    kinds = list(itertools.product((False, True), (False, True)))  # manual, fused
    equal = {
        (net, precision, manual, fused): Task(
            f"equal to a plain loop: {net}, {precision}, {'fused' if fused else 'default'}, "
            f"{'manual' if manual else 'automatic'}",
            _quietly(partial(_equal, context, net, precision, manual, fused)),
            least=2.0,
        )
        for net in NETS
        for precision in PRECISIONS
        for manual, fused in kinds
    }
    first = [equal.pop(("conv", precision, False, True)) for precision in PRECISIONS]
    reads = [
        Task(
            f"{_READS[context.small]}: {p}, {'fused' if f else 'default'}",
            _quietly(partial(_reads, context, p, f)),
            2.0,
        )
        for p in ("ieee-fp32", "16-mixed", "bf16-mixed")
        for f in (True, False)
    ]
    skips = [Task(f"skipped steps: {'fused' if f else 'default'}", _quietly(partial(_skips, context, f)), 2.0) for f in (True, False)]  # fmt: skip
    observers = [
        Task(f"observers leave no trace: {net}, {p}", _quietly(partial(_observers, context, net, p)), 4.0)
        for net, p in (("conv", "ieee-fp32"), ("conv", "16-mixed"), ("lstm", "16-mixed"), ("lstm", "ieee-fp32"))
    ]
    single = [
        Task("out of memory: the batch is split", _quietly(partial(_split, context))),
        Task("resumed: bit for bit the same", _quietly(partial(_resume, context)), 2.0),
        Task("sharded on one rank", _quietly(partial(_sharded, context)), 2.0, limit=40.0),
    ]
    return [*first[:1], reads[0], skips[0], *single[:2], observers[0], *first[1:], *reads[1:], skips[1], single[2], *observers[1:], *equal.values()]  # fmt: skip


_READS = {False: "synchronizations per step", True: "host reads per step"}


def _quietly(run: Callable[[Clock], Any]) -> Callable[[Clock], Any]:
    def quiet(clock: Clock) -> Any:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
            loggers_silent(),
            problems.deterministic(),
        ):
            warnings.simplefilter("ignore")
            return run(clock)

    return quiet


def listed(manual: bool = False) -> list[Any]:
    """README's list; under manual optimization without what makes steps itself, or needs to know when they are made."""
    found = [
        GradientMonitor(),
        GradientClip(LARGEST_NORM, nonfinite="skip"),
        LRSchedule("cosine", warmup=0),
        LossScaleGuard(),
        PrecisionDoctor(),
        TrainingDoctor(),
    ]
    before = [SanityCheck(), LRFinder(apply=False, num_steps=20)]
    return found if manual else [*before, *found, GradientAccumulation(WINDOW)]


def needs_half(context: Context, net: str, precision: str) -> None:
    """Refuse what torch has no kernels for.

    Raises:
        UnavailableError: TF32 elsewhere than on CUDA, or float16 in an LSTM on a CPU.
    """
    if precision == "tf32" and context.device.type != "cuda":
        raise UnavailableError("a mode of NVIDIA tensor cores")
    if context.device.type == "mps" and "mixed" in precision:
        raise UnavailableError("a loss scale and autocast are not the same on MPS")
    if precision == "16-mixed" and net == "lstm" and context.device.type == "cpu":
        raise UnavailableError("a CPU has no LSTM in float16")


def _equal(context: Context, net: str, precision: str, manual: bool, fused: bool, clock: Clock) -> list[dict[str, Any]]:
    needs_half(context, net, precision)
    window = 1 if manual else WINDOW
    total = STEPS // window

    def rate(update: int) -> float:
        return (1 + math.cos(math.pi * update / total)) / 2

    start = network(net)
    wanted, *_ = problems.plain(context.device, start, precision, fused, window, rate)
    found = problems.fitted(context, Module(network(net), fused, manual), listed(manual), precision)
    way = float((wanted - problems.weights(start)).abs().max())
    error = float((found - wanted).abs().max()) / way
    return [
        measured("largest difference, of the weights' way", error, at_most=TOLERANCES[precision]),
        measured("the weights' way", way),
    ]


# -- waiting for the device -------------------------------------------------------------------------------------------


class Watch(L.Callback):
    """Counts what waits for the device, from one batch to another; the last callback, so that ours are within."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.count = first, last, 0
        self._stack = contextlib.ExitStack()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            self._found = self._stack.enter_context(waiting(module.device))
        elif batch_idx == self.last:
            self._stack.close()
            self.count = self._found()


@contextlib.contextmanager
def waiting(device: torch.device) -> Iterator[Callable[[], int]]:
    """Count synchronizations with a CUDA device, by torch's own debug mode; elsewhere reads of single numbers."""
    if device.type != "cuda":
        mode = Reads()
        with mode:
            yield lambda: mode.count
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchroniz" in str(w.message) for w in caught)
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _reads(context: Context, precision: str, fused: bool, clock: Clock) -> list[dict[str, Any]]:
    needs_half(context, "conv", precision)
    first, last = 6, 14

    def count(callbacks: Sequence[Any]) -> float:
        watch = Watch(first, last)
        problems.fitted(context, Module(network("conv"), fused), [*callbacks, watch], precision)
        return watch.count / (last - first)

    bare, ours = count([]), count([c for c in listed() if not isinstance(c, GradientAccumulation)])
    # documented: an optimizer that is not fused, without a scaler, asks once per update whether gradients are finite
    allowed = 0 if fused or precision == "16-mixed" or context.device.type == "cpu" else 1
    found = [measured("beyond the bare Trainer's", ours - bare, at_most=allowed), measured("bare Trainer", bare)]
    if context.device.type == "cuda" and fused:
        own, ours = (_strict(context, precision, fused, c) for c in ([], [c for c in listed() if not isinstance(c, GradientAccumulation)]))  # fmt: skip
        found.append(measured("bare passes set_sync_debug_mode('error')", float(own)))
        found.append(measured("README's list passes it", float(ours), at_least=float(own)))
    return found


class Strict(L.Callback):
    """Makes torch refuse, in whole steps, whatever waits for the GPU."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx in (8, 9) else "default")


class Lenient(L.Callback):
    """Ends that behind all other callbacks: Lightning's own end of a batch may wait."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("default")


def _strict(context: Context, precision: str, fused: bool, callbacks: Sequence[Any]) -> bool:
    on_device = [tuple(t.to(context.device) for t in batch) for batch in problems.batches()]
    loader = torch.utils.data.DataLoader(on_device, batch_size=None)  # type: ignore[arg-type]
    try:
        problems.fitted(
            context, Module(network("conv"), fused), [Strict(), *callbacks, Lenient()], precision, loader=loader
        )
    except RuntimeError as error:
        if "synchroniz" not in str(error).lower():
            raise
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


# -- skips, memory, traces, resume ------------------------------------------------------------------------------------


def _skips(context: Context, fused: bool, clock: Clock) -> list[dict[str, Any]]:
    needs_half(context, "conv", "16-mixed")
    spoilt = (3, 7, 8)
    wanted, scale, applied = problems.plain(context.device, network("conv"), "16-mixed", fused, spoilt=spoilt)
    guard = LossScaleGuard()
    callbacks = [GradientMonitor(), GradientClip(LARGEST_NORM, nonfinite="skip"), guard]
    module = Module(network("conv"), fused, spoilt=spoilt)
    found = problems.fitted(context, module, callbacks, "16-mixed")
    ours = float(module.trainer.precision_plugin.scaler.get_scale())
    way = float((wanted - problems.weights(network("conv"))).abs().max())
    return [
        measured("skipped steps counted, less those of torch", abs(guard.skipped_steps - (STEPS - applied)), at_most=0),
        measured("loss scale over torch's", abs(math.log2(ours / scale)), "octaves", at_most=0),
        measured(
            "largest difference, of the weights' way",
            float((found - wanted).abs().max()) / way,
            at_most=TOLERANCES["16-mixed"],
        ),
    ]


class Hungry(L.LightningModule):
    """One linear layer whose output takes ``room`` bytes for a batch of 16: more than there is."""

    def __init__(self, room: int, played: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Linear(8, 1)
        self.columns, self.played = max(1, room // (4 * 16)), played

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.played and len(batch[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory (played)")
        wide = self.net(batch[0]).expand(len(batch[0]), self.columns) * 1.0
        return (wide * wide).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def _split(context: Context, clock: Clock) -> list[dict[str, Any]]:
    device, played = context.device, context.device.type != "cuda"
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    room = 2**30
    module, trick = Hungry(4 * 64 if played else 3 * room, played), GradientAccumulation(1, on_oom="split")
    before = module.net.weight.detach().clone()
    with _little_memory(device, room):
        problems.fitted(context, module, [trick], loader=torch.utils.data.DataLoader([(x, x)], batch_size=None))  # type: ignore[arg-type]
    # the loss is the mean of squares over all columns, which are alike
    weight, bias = before.double().requires_grad_(), Hungry(1, True).net.bias.detach().double().requires_grad_()
    nn.functional.linear(x.double(), weight, bias).square().mean().backward()
    wanted = before.double() - 0.1 * weight.grad
    error = float((module.net.weight.detach().double().cpu() - wanted).abs().max() / (0.1 * weight.grad).abs().max())
    size = trick.max_split_size
    return [
        measured("samples that fitted, of 16", None if size is None else float(size), at_most=15),
        measured("largest difference to the whole batch's update", error, at_most=1e-4),
    ]


@contextlib.contextmanager
def _little_memory(device: torch.device, room: int) -> Iterator[None]:
    """Leave so many bytes of a CUDA device to this process."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved(device) + room) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _observers(context: Context, net: str, precision: str, clock: Clock) -> list[dict[str, Any]]:
    needs_half(context, net, precision)

    def run(*callbacks: Any) -> Tensor:
        return problems.fitted(context, Module(network(net)), callbacks, precision)

    bare = run()
    found = [measured("without callbacks, twice", float((run() - bare).abs().max()), at_most=0)]
    for name, make in OBSERVERS.items():
        if clock.left() < 1:
            break
        found.append(measured(name, float((run(make()) - bare).abs().max()), at_most=0))
    return found


def _resume(context: Context, clock: Clock) -> list[dict[str, Any]]:
    """Dropout draws from the device's generator; the loader is shuffled; the run stops after half of its steps."""

    def run(folder: str, seed: int, steps: int, checkpoint: str | None = None) -> Tensor:
        torch.manual_seed(seed)
        module = Module(network("conv", dropout=0.3))
        keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=STEPS // 2, save_top_k=-1)
        callbacks = [ExactResume(), GradientClip(LARGEST_NORM), keep]
        t = problems.trainer(context, callbacks, max_steps=steps, enable_checkpointing=True)
        t.fit(module, problems.batches(shuffle=True), ckpt_path=checkpoint)
        return problems.weights(module)

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        run(first, 0, STEPS // 2)
        resumed = run(first, 5, STEPS, str(next(Path(first).glob("*.ckpt"))))
        whole = run(second, 0, STEPS)
    difference = float((resumed - whole).abs().max())
    return [measured("largest difference to the run that was not stopped", difference, at_most=0)]


class Sharded(Module):
    """FSDP2: the parameters are split over the ranks, of which there is one."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def _sharded(context: Context, clock: Clock) -> list[dict[str, Any]]:
    from lightning.pytorch.strategies import ModelParallelStrategy

    if context.device.type not in ("cuda", "cpu"):
        raise UnavailableError("FSDP2 is there on CUDA and on CPUs")
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    callbacks = [GradientMonitor(), GradientClip(LARGEST_NORM)]
    torch.manual_seed(0)
    module = Sharded(network("conv"))
    try:
        t = problems.trainer(context, callbacks, strategy=strategy, use_distributed_sampler=False)
        t.fit(module, problems.batches())
        found = torch.cat([p.full_tensor().detach().double().cpu().flatten() for p in module.parameters()])  # type: ignore[attr-defined]
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    wanted = problems.fitted(context, Module(network("conv")), [GradientMonitor(), GradientClip(LARGEST_NORM)])
    return [
        measured("largest difference to one device without sharding", float((found - wanted).abs().max()), at_most=1e-5)
    ]
