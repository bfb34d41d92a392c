"""advise_precision: train the user's own model for seconds in every precision, and say which one pays. No Trainer."""

from __future__ import annotations

import copy
import math
import random
import statistics
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.dry_run.training_step import step_arguments
from lightning_tricks.errors import TrickError, UnsupportedError, listed, message, require_number

PRECISIONS = ("ieee-fp32", "tf32", "bf16-mixed", "16-mixed", "bf16-true")
_TRAINER = {"ieee-fp32": "32-true", "tf32": "32-true"}
_ROUNDS = 3
_WARM_UP = 24
_PAYS = 1.1
_SAVES = 0.85
_FAITHFUL = 0.99
_LONGER = 2.0
_LAUNCH_BOUND = 0.85
_OWNER = "advise_precision"


@contextmanager
def fp32_mode(tf32: bool) -> Iterator[None]:
    """Set torch's process-wide flags for float32 arithmetic on a GPU, and put them back.

    Out of the box float32 is three things: matrix products in IEEE float32, but cuDNN's convolutions and recurrent
    networks in TF32. This sets all of them alike, through the interface that Lightning reads too (#21256).

    Args:
        tf32: TF32 (10 bits of mantissa on tensor cores) everywhere; else IEEE float32 everywhere.

    >>> with fp32_mode(True):
    ...     torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    ('high', True)
    """
    before, newer = fp32_flags(), [(part, part.fp32_precision) for part in _parts_with_new_flags()]
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        yield
    finally:
        torch.set_float32_matmul_precision(before["matmul"])
        torch.backends.cudnn.allow_tf32 = before["cudnn"]
        for part, value in newer:  # the old interface writes "ieee" where nothing was set
            if part.fp32_precision != value:
                part.fp32_precision = value


def _parts_with_new_flags() -> list[Any]:
    """The parts of torch (2.9 and later) whose float32 precision the old interface sets too."""
    backends = torch.backends
    parts = [backends.cuda.matmul, *(getattr(backends.mkldnn, n, None) for n in ("matmul", "conv", "rnn"))]
    parts += [getattr(backends.cudnn, n, None) for n in ("conv", "rnn")]
    return [part for part in parts if hasattr(part, "fp32_precision")]


def fp32_flags() -> dict[str, Any]:
    """Return torch's flags for float32 arithmetic.

    Raises:
        UnsupportedError: they were set through torch's new interface, which the old one cannot read (#21256).

    >>> sorted(fp32_flags())
    ['cudnn', 'matmul']
    """
    try:
        return {"matmul": torch.get_float32_matmul_precision(), "cudnn": torch.backends.cudnn.allow_tf32}
    except RuntimeError as error:
        raise UnsupportedError(
            "torch.backends.*.fp32_precision was set in this process, after which torch and Lightning cannot read "
            "float32_matmul_precision (#21256). Use torch.set_float32_matmul_precision instead."
        ) from error


@dataclass
class PrecisionRow:
    """What one precision did to the model.

    Args:
        precision: ``ieee-fp32``, ``tf32``, ``bf16-mixed``, ``16-mixed`` or ``bf16-true``.
        seconds: per step, one median for each round.
        peak_bytes: memory that one step allocated at most, weights and optimizer state included.
        cosine: of its first gradient to that of ieee-fp32.
        loss: of the first step.
        skipped: share of steps that the GradScaler skipped.
        problem: why there are no numbers; empty where there are.
        host_share: share of a step's time in which the host was still launching kernels.
        length: of its first gradient, over that of ieee-fp32's.
        noise: cosine of the gradient of half of the batch to that of all of it; measured in ieee-fp32, NaN elsewhere.
    """

    precision: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    cosine: float = math.nan
    loss: float = math.nan
    skipped: float = 0.0
    problem: str = ""
    host_share: float = 0.0
    length: float = 1.0
    noise: float = math.nan


@dataclass(frozen=True)
class PrecisionAdvice:
    """What ``advise_precision`` found.

    Args:
        recommended: for ``Trainer(precision=...)``.
        reasons: why, one sentence each; then what about the model's shapes keeps 16-bit arithmetic from being fast.
        rows: what was measured, by precision.
        device: on which it was measured.
    """

    recommended: str
    reasons: list[str]
    rows: dict[str, PrecisionRow]
    device: str

    @property
    def table(self) -> str:
        """The measurements as a Markdown table; ratios are against IEEE float32 and against TF32."""
        lines = [
            "| precision | ms per step | over ieee-fp32 | over tf32 | memory MB | gradient cosine | skipped |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in self.rows.values():
            if row.problem:
                lines.append(f"| {row.precision} | {row.problem} | | | | | |")
                continue
            ratios = [_shown_ratio(self.rows, row, base) for base in ("ieee-fp32", "tf32")]
            cells = [f"{statistics.median(row.seconds) * 1e3:.2f}", *ratios, f"{row.peak_bytes / 2**20:.1f}"]
            lines.append(f"| {row.precision} | {' | '.join(cells)} | {row.cosine:.4f} | {row.skipped:.0%} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The table, the recommendation and its reasons."""
        why = "\n".join(f"- {reason}" for reason in self.reasons)
        return f"{self.table}\n\nOn {self.device}: Trainer(precision={self.recommended!r})\n{why}"


def _shown_ratio(rows: dict[str, PrecisionRow], row: PrecisionRow, base: str) -> str:
    found = speedup(rows, row.precision, base)
    return "-" if found is None else "{:.2f}x [{:.2f}, {:.2f}]".format(*found)


def speedup(rows: dict[str, PrecisionRow], precision: str, base: str) -> tuple[float, float, float] | None:
    """Return how many times faster a precision is than ``base``: median, least and largest of the paired rounds.

    >>> rows = {"a": PrecisionRow("a", [1.0, 2.0, 1.0]), "b": PrecisionRow("b", [0.5, 1.0, 0.4])}
    >>> speedup(rows, "b", "a")
    (2.0, 2.0, 2.5)
    """
    if base not in rows or not rows[base].seconds or not rows[precision].seconds:
        return None
    pairs = [b / a for a, b in zip(rows[precision].seconds, rows[base].seconds, strict=True)]
    return statistics.median(pairs), min(pairs), max(pairs)


def advise_precision(
    module: nn.Module, batch: Any, *, device: str | torch.device | None = None, seconds: float = 10.0
) -> PrecisionAdvice:
    """Measure a model in every precision that a device has, and recommend one for ``Trainer(precision=...)``.

    Copies of the model take some training steps on the one batch, in turns. The module, torch's flags and the random
    numbers are left as they were.

    Args:
        module: a LightningModule with automatic optimization (its ``training_step`` and ``configure_optimizers`` are
            used), or any module: then the output is the loss if it is one number, else it is compared with the batch's
            target (cross entropy for whole numbers, else mean squares), with AdamW.
        batch: as ``training_step`` gets it; for other modules ``(input, target)`` or the input alone.
        device: where to measure; None for a GPU if there is one.
        seconds: time to spend, > 0.

    Returns:
        The recommendation, its reasons and the table.

    Raises:
        TypeError, ValueError: an argument is wrong.
        UnsupportedError: manual optimization.
        TrickError: the model cannot be trained a step outside of a Trainer; the message holds its error.

    Example:
        >>> from lightning_tricks import advise_precision
        >>> batch = torch.randn(8, 16), torch.randint(4, (8,))
        >>> advice = advise_precision(nn.Linear(16, 4), batch, device="cpu", seconds=0.2)
        >>> advice.rows["tf32"].problem
        'a mode of NVIDIA tensor cores'

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740.
    """
    require_number(_OWNER, "seconds", seconds, remedy="Use e.g. 10.0")
    given: object = module
    if not isinstance(given, nn.Module):
        text = "module must be a torch.nn.Module or a LightningModule"
        raise TypeError(message(_OWNER, "module", type(module).__name__, text, "Pass the model itself"))
    if not getattr(module, "automatic_optimization", True):
        text = "manual optimization makes its steps with a Trainer only"
        remedy = "Pass a part of it, as net.encoder"
        raise UnsupportedError(message(_OWNER, "module", type(module).__name__, text, remedy))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = {p: PrecisionRow(p, problem=unavailable(p, where)) for p in PRECISIONS}
    state = global_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _measure(module, batch, where, rows, seconds)
    finally:
        set_global_state(state)
    recommended, reasons = recommend(rows, where)
    return PrecisionAdvice(recommended, [*reasons, *shape_findings(module, where)], rows, _device_name(where))


def unavailable(precision: str, device: torch.device) -> str:
    """Return why a device does not have a precision; empty where it does.

    >>> unavailable("16-mixed", torch.device("cpu"))
    'Lightning makes it bf16-mixed on a CPU'
    """
    if device.type == "cpu":
        return {
            "tf32": "a mode of NVIDIA tensor cores",
            "16-mixed": "Lightning makes it bf16-mixed on a CPU",
        }.get(precision, "")
    if device.type == "cuda" and precision != "ieee-fp32":
        major = torch.cuda.get_device_capability(device)[0]
        if major < 8 and precision in ("tf32", "bf16-mixed", "bf16-true"):
            return f"{torch.cuda.get_device_name(device)} does not have it (compute capability 8.0 or more)"
    return ""


class Candidate:
    """A copy of the model that trains in one precision.

    Args:
        module: copied.
        batch: moved and, for ``bf16-true``, cast.
        device: where.
        precision: one of ``PRECISIONS``.
    """

    def __init__(self, module: nn.Module, batch: Any, device: torch.device, precision: str) -> None:
        self.precision, self.device = precision, device
        self.module = copy.deepcopy(module).to(device).train()
        true_half = precision == "bf16-true"
        if true_half:
            self.module.to(torch.bfloat16)
        self.batch = tree_map(lambda t: _moved(t, device, true_half) if isinstance(t, Tensor) else t, batch)
        self.scaler = torch.amp.GradScaler(device.type) if precision == "16-mixed" else None
        self.optimizer = _optimizer(self.module)
        self.steps = 0
        self._applied: int | Tensor = 0
        self.optimizer.register_step_post_hook(self._count)

    def _count(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # GradScaler does not call an optimizer that it skips; a fused one it calls with a flag on the device
        found = getattr(optimizer, "found_inf", None)
        self._applied = self._applied + (1 if found is None else 1 - found)

    @property
    def skipped(self) -> int:
        """How many steps the GradScaler skipped. Reads the device once, with a fused optimizer."""
        return self.steps - int(self._applied)

    def loss(self) -> Tensor:
        """One forward pass, as the Trainer would make it."""
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with ExitStack() as stack:
            if dtype is not None:
                stack.enter_context(torch.autocast(self.device.type, dtype, cache_enabled=False))
            return _loss(self.module, self.batch)

    def gradient(self) -> tuple[Tensor, float]:
        """Return the gradient of the first step as one float32 vector, and its loss.

        Under 16-mixed at the largest loss scale, a power of two up to 2^16, at which it is finite.
        """
        scale = 1.0 if self.scaler is None else 2.0**16
        while True:
            torch.manual_seed(0)
            loss = self.loss()
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            grads = (p.grad if p.grad is not None else torch.zeros_like(p) for p in self.module.parameters())
            found = torch.cat([g.reshape(-1).float() for g in grads]) / scale
            self.optimizer.zero_grad()
            if scale == 1.0 or bool(found.isfinite().all()):
                return found, float(loss.detach())
            scale /= 2

    def warm_up(self) -> None:
        """Step until a step is applied and the optimizer has its state: the first ones of 16-mixed may be skipped."""
        for _ in range(_WARM_UP):
            self.step()
            if self.optimizer.state:
                return

    def step(self) -> None:
        """One training step."""
        loss = self.loss()
        self.steps += 1
        if self.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()


def _measure(
    module: nn.Module, batch: Any, device: torch.device, rows: dict[str, PrecisionRow], seconds: float
) -> None:
    """Fill the rows: first memory and gradients, each precision alone; then times, in turns."""
    reference: Tensor | None = None
    for row in [r for r in rows.values() if not r.problem]:
        with fp32_mode(row.precision == "tf32"), _trouble_in(row, required=row.precision == "ieee-fp32"):
            candidate = Candidate(module, batch, device, row.precision)
            gradient, row.loss = candidate.gradient()
            reference = gradient if reference is None else reference
            row.cosine = _cosine(gradient, reference)
            row.length = float(gradient.double().norm() / reference.double().norm().clamp(min=1e-300))
            if row.precision == "ieee-fp32" and (half := half_of(batch)) is not None:
                row.noise = _noise(module, half, device, gradient)
            candidate.warm_up()
            static = sum(t.nbytes for t in held_tensors(candidate.module, [candidate.optimizer]))
            row.peak_bytes = static + peak_bytes(candidate.step, device)
            del candidate, gradient
    usable = [r for r in rows.values() if not r.problem]
    budget = 0.7 * seconds / (_ROUNDS * max(1, len(usable)))
    order = random.Random(0)
    for _ in range(_ROUNDS):
        for row in order.sample(usable, len(usable)):
            with fp32_mode(row.precision == "tf32"), _trouble_in(row):
                candidate = Candidate(module, batch, device, row.precision)
                candidate.warm_up()
                seconds_per_step, row.host_share = _time(candidate, budget)
                row.seconds.append(seconds_per_step)
                row.skipped += candidate.skipped / candidate.steps / _ROUNDS
                del candidate
    for row in usable:
        if row.problem:
            row.seconds = []


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(nn.functional.cosine_similarity(first.double(), second.double(), dim=0))


def _noise(module: nn.Module, half: Any, device: torch.device, gradient: Tensor) -> float:
    """Return the cosine of half of a batch's gradient to ``gradient``; NaN where the module does not take the half."""
    try:
        return _cosine(Candidate(module, half, device, "ieee-fp32").gradient()[0], gradient)
    except Exception:  # the half is our own making, and the comparison can do without it
        return math.nan


def half_of(batch: Any) -> Any:
    """Return the first half of the samples of a batch; None where the shapes do not say what a sample is.

    The shortest first dimension is the number of samples; targets that were flattened hold several rows for each.

    >>> half_of((torch.zeros(4, 3), torch.zeros(8)))[1].shape
    torch.Size([4])
    """
    rows = [len(t) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim]
    samples = min(rows, default=0)
    if samples < 2 or any(n % samples for n in rows):
        return None
    kept = samples // 2
    return tree_map(lambda t: t[: len(t) // samples * kept] if isinstance(t, Tensor) and t.ndim else t, batch)


def _time(candidate: Candidate, budget: float) -> tuple[float, float]:
    """Return the median seconds of a step, and the share of them after which all its kernels were launched."""
    times, launched = list[float](), list[float]()
    for i in range(10_000):
        _synchronize(candidate.device)
        start = time.perf_counter()
        candidate.step()
        ready = time.perf_counter()
        _synchronize(candidate.device)
        if i >= 2:
            times.append(time.perf_counter() - start)
            launched.append(ready - start)
        if len(times) >= 3 and sum(times) > budget:
            break
    return statistics.median(times), statistics.median(launched) / statistics.median(times)


@contextmanager
def _trouble_in(row: PrecisionRow, *, required: bool = False) -> Iterator[None]:
    """A precision that fails has no numbers; the others go on."""
    try:
        yield
    except torch.OutOfMemoryError:
        row.problem = "out of memory"
    except Exception as error:
        if required:
            raise TrickError(
                f"{_OWNER}: the model could not be trained a step outside of a Trainer ({type(error).__name__}: "
                f"{error}). Pass the network itself and a batch of (input, target)."
            ) from error
        row.problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:100]


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """Return how much memory a function allocates at most beyond what is there when it begins.

    On a GPU from torch's own statistics; on a CPU the tensors that are alive at once (without what
    kernels allocate inside).

    >>> peak_bytes(lambda: torch.zeros(1000).add(1), torch.device("cpu"))
    8000
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    live = LiveTensors()
    with live:
        function()
    return live.peak


class LiveTensors(TorchDispatchMode):
    """Follows the sizes of all tensors that operations make, forward and backward, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):  # what was there before counts nothing
                self._known.setdefault(tensor.untyped_storage(), 0)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, size)
        return result

    def _free(self, size: int) -> None:
        self.now -= size


def recommend(rows: dict[str, PrecisionRow], device: torch.device) -> tuple[str, list[str]]:
    """Return a precision for the Trainer and the reasons.

    A mixed precision is recommended when it is at least 1.1 times as fast as float32 (TF32, where there is one) in
    every round, or takes at most 85 % of its memory without being slower, and its gradient is that of float32: the
    cosine is at least 0.99, or rounding turns the gradient less than leaving out half of the batch does and leaves its
    length between a half and twice as long. (Gradients of deep networks with BatchNorm are sensitive at the beginning:
    healthy ones have cosines from 0.3 on.) bf16-mixed comes first: it needs no loss scale. bf16-true is never
    recommended from a few steps: whether a model trains to the same quality without float32 weights only a full run
    can tell.

    >>> rows = {"ieee-fp32": PrecisionRow("ieee-fp32", [1.0] * 3, 100, 1.0, 2.0),
    ...         "bf16-mixed": PrecisionRow("bf16-mixed", [0.5] * 3, 60, 0.999, 2.0)}
    >>> recommend(rows, torch.device("cpu"))[0]
    'bf16-mixed'
    """
    base = "tf32" if rows.get("tf32") and rows["tf32"].seconds else "ieee-fp32"
    advice = "32-true"
    reasons: list[str] = []
    best = 0.0
    for precision in ("bf16-mixed", "16-mixed"):
        row = rows.get(precision)
        found = None if row is None else speedup(rows, precision, base)
        if row is None or found is None:
            continue
        memory = row.peak_bytes / max(1, rows[base].peak_bytes)
        said = f"{precision}: {found[0]:.2f} times as fast as {base}, {memory:.0%} of its memory"
        noise = rows["ieee-fp32"].noise if "ieee-fp32" in rows else math.nan
        same = row.cosine >= _FAITHFUL
        below_noise = row.cosine > max(noise, 0.0) and 1 / _LONGER <= row.length <= _LONGER
        if not ((same or below_noise) and math.isfinite(row.loss)):
            reasons.append(f"{said}, but its gradient differs (cosine {row.cosine:.3f}): look with PrecisionDoctor.")
            continue
        pays = found[1] >= _PAYS or (memory <= _SAVES and found[0] >= 0.98)
        better = found[0] > best * 1.05
        if pays and better:
            advice, best = precision, found[0]
        gradient = f"same gradient (cosine {row.cosine:.4f})"
        if not same:
            gradient = (
                f"rounding turns the gradient less (cosine {row.cosine:.3f}) than half a batch does ({noise:.3f})"
            )
        reasons.append(f"{said}, {gradient}.")
    if device.type == "cuda" and rows[base].host_share > _LAUNCH_BOUND:
        share = rows[base].host_share
        reasons.append(
            f"Launch-bound: {share:.0%} of a step pass while the host launches kernels, which no precision changes. "
            "Use larger batches or torch.compile."
        )
    if advice == "32-true":
        reasons.insert(0, "Mixed precision will not help here: it neither saves a tenth of the time nor much memory.")
    if base == "tf32" and (found := speedup(rows, "tf32", "ieee-fp32")) is not None:
        reasons.append(
            f"tf32: {found[0]:.2f} times as fast as ieee-fp32; "
            "torch.set_float32_matmul_precision('high') switches it on."
        )
    true_half = speedup(rows, "bf16-true", base) if "bf16-true" in rows else None
    if true_half is not None:
        share = rows["bf16-true"].peak_bytes / max(1, rows[base].peak_bytes)
        reasons.append(
            f"bf16-true: {true_half[0]:.2f} times as fast, {share:.0%} of the memory, but with weights of 8 bits of "
            "mantissa: only a full run tells whether the model trains as well."
        )
    return advice, reasons


def shape_findings(module: nn.Module, device: torch.device) -> list[str]:
    """Return what about a model's shapes keeps 16-bit arithmetic from being fast or safe.

    >>> shape_findings(nn.Linear(10, 16), torch.device("cpu"))
    ["Sizes that are no multiples of 8, so that tensor cores idle: '' Linear(10, 16)."]
    """
    odd, plain, losses = [], [], []
    for name, part in module.named_modules():
        sizes: tuple[int, ...] = ()
        if isinstance(part, nn.Linear):
            sizes = part.in_features, part.out_features
        elif isinstance(part, nn.Embedding):
            sizes = part.num_embeddings, part.embedding_dim
        elif isinstance(part, nn.Conv2d):
            sizes = part.in_channels, part.out_channels
            if sizes[0] > 4 and not part.weight.is_contiguous(memory_format=torch.channels_last):
                plain.append(name)
        elif isinstance(part, nn.BCELoss):
            losses.append(name)
        if any(size % 8 for size in sizes if size > 4):
            odd.append(f"{name!r} {type(part).__name__}({', '.join(map(str, sizes))})")
    out = []
    if odd:
        out.append(f"Sizes that are no multiples of 8, so that tensor cores idle: {listed(odd, 4)}.")
    if plain and device.type == "cuda":
        out.append(f"{len(plain)} convolutions are not in channels_last: module.to(memory_format=torch.channels_last).")
    if losses:
        out.append(f"{losses[0]!r} is BCELoss, which autocast refuses on a GPU: use BCEWithLogitsLoss.")
    return out


def _loss(module: nn.Module, batch: Any) -> Tensor:
    step = getattr(module, "training_step", None)
    if step is not None:
        output = step(*step_arguments(step, batch, 0))
        loss: Tensor = output["loss"] if isinstance(output, dict) else output
        return loss
    inputs, target = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (batch, None)
    output = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    if output.numel() == 1:
        return output.reshape(())  # type: ignore[no-any-return]
    if target is None:
        return output.float().square().mean()  # type: ignore[no-any-return]
    if target.is_floating_point():
        return mse_loss(output.float(), target.float().reshape(output.shape))
    return cross_entropy(output.reshape(-1, output.shape[-1]).float(), target.reshape(-1))


def _optimizer(module: nn.Module) -> Optimizer:
    make = getattr(module, "configure_optimizers", None)
    if make is not None:
        try:
            found = make()
        except Exception:  # it may need the Trainer; the kind of optimizer changes little
            found = None
        while isinstance(found, (tuple, list)) and found:
            found = found[0]
        found = found.get("optimizer") if isinstance(found, dict) else found
        if isinstance(found, Optimizer):
            return found
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])


def held_tensors(module: nn.Module, optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """Yield what a training holds between two steps: parameters, buffers, and the optimizers' state.

    >>> len(list(held_tensors(nn.Linear(1, 1), [])))
    2
    """
    yield from module.parameters()
    yield from module.buffers()
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (t for t in state.values() if isinstance(t, Tensor))


def _moved(tensor: Tensor, device: torch.device, half: bool) -> Tensor:
    return tensor.to(device, torch.bfloat16) if half and tensor.is_floating_point() else tensor.to(device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
