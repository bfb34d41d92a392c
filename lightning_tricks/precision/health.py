"""What measured activations and gradients mean for 16-bit arithmetic: pure numbers in, findings out. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_tricks.errors import listed
from lightning_tricks.modules.trace import Call
from lightning_tricks.precision.watch import LARGEST

_LITTLE_HEADROOM = 2.0
_MUCH_UNDERFLOW = 0.5
_KINDS = {
    "forward overflow": "a module's output went beyond 65,504, the largest number of float16",
    "loss overflow": "the loss was NaN or inf although every module's output was finite",
    "backward overflow": "a gradient was not finite however small the loss scale was",
    "loss scale too large": "the scaled gradients went beyond 65,504: the GradScaler at work",
    "nonfinite input": "the batch itself held NaN or inf",
    "nonfinite weight": "a weight was NaN or inf",
    "unexplained skip": "an update was skipped, and its forward pass could not be looked at again",
    "little headroom": "a module's largest output was close to 65,504",
    "underflow": "gradients were so small that float16 loses their bits",
    "small eps": "the optimizer's eps is 0 in float16",
}


@dataclass(frozen=True)
class Finding:
    """Something that 16-bit arithmetic does to this run.

    Args:
        kind: one of ``forward overflow``, ``loss overflow``, ``backward overflow``, ``loss scale too large``,
            ``nonfinite input``, ``nonfinite weight``, ``unexplained skip``, ``little headroom``, ``underflow``,
            ``small eps``.
        module: name of the module, or of the parameter; empty where it is the whole model.
        text: what was seen.
        advice: what to do.
        step: of Lightning's loggers, when it was first seen.
        times: how often it was seen.
    """

    kind: str
    module: str
    text: str
    advice: str
    step: int
    times: int = 1

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"Finding(kind={self.kind!r}): kind must be one of {', '.join(_KINDS)}. Use one of these.")

    @property
    def ordinary(self) -> bool:
        """Whether a healthy run has it too: the loss scale is found by overflowing now and then."""
        return self.kind == "loss scale too large"

    @property
    def serious(self) -> bool:
        """Whether it is worth a warning at once."""
        return self.kind not in ("loss scale too large", "unexplained skip", "little headroom", "underflow")

    def __str__(self) -> str:
        """Say it in one line.

        >>> print(Finding("forward overflow", "mlp", "its output reached inf", "Use FP32Islands(['mlp'])", 7))
        forward overflow in mlp (step 7): its output reached inf. Use FP32Islands(['mlp']).
        """
        where = f" in {self.module}" if self.module else ""
        often = f", {self.times} times" if self.times > 1 else ""
        return f"{self.kind}{where} (step {self.step}{often}): {self.text}. {self.advice}."


class Findings:
    """Collects findings; one that was there counts up, and keeps its first step.

    >>> found = Findings()
    >>> for step in (3, 5):
    ...     _ = found.add(Finding("underflow", "head", "60 % of its gradients", "Use bf16-mixed", step))
    >>> [(f.step, f.times) for f in found]
    [(3, 2)]
    """

    def __init__(self, known: Sequence[Finding] = ()) -> None:
        self._known = {(f.kind, f.module): f for f in known}

    def add(self, finding: Finding) -> bool:
        """Add one; return whether it is new."""
        key = finding.kind, finding.module
        before = self._known.get(key)
        self._known[key] = finding if before is None else replace(finding, step=before.step, times=before.times + 1)
        return before is None

    def __iter__(self) -> Iterator[Finding]:
        return iter(sorted(self._known.values(), key=lambda f: (list(_KINDS).index(f.kind), f.step)))

    def __len__(self) -> int:
        return len(self._known)


def grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Put findings of one kind with the same advice together: underflow seldom hits one module only.

    >>> [len(g) for g in grouped([Finding("underflow", name, "", "", 0) for name in "abc"])]
    [3]
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.advice), []).append(finding)
    return list(groups.values())


def headroom(largest: Tensor) -> Tensor:
    """Return the distance to overflow in bits, ``log2(65504 / largest)``; negative where float16 would overflow.

    Args:
        largest: largest magnitudes ``[n]``; negative for not seen, which gives NaN.

    >>> headroom(torch.tensor([65504.0, 1.0, -1.0]))
    tensor([ 0.0000, 15.9993,     nan])
    """
    bits = math.log2(LARGEST) - largest.clamp(min=2.0**-126).log2()
    return torch.where(largest < 0, torch.nan, bits)


def underflow(counts: Tensor) -> Tensor:
    """Return the share of gradient elements that are not 0 and below float16's normal range; NaN for none seen.

    Args:
        counts: ``[2, n]``, below it and not 0.

    >>> underflow(torch.tensor([[1.0, 0.0], [4.0, 0.0]]))
    tensor([0.2500,    nan])
    """
    return counts[0] / counts[1]


def judge(
    names: Sequence[str],
    dtypes: dict[str, torch.dtype],
    measured: Sequence[Sequence[float]],
    *,
    half: bool,
    step: int,
) -> list[Finding]:
    """Return what a measured table, now on the host, says.

    Args:
        names: of the ``n`` modules.
        dtypes: of their outputs. Under 16-mixed an output in float32 is an island's or a loss's: it cannot overflow.
        measured: ``[4, n]``, as ``Watch.collect`` gives it.
        half: whether the run computes in float16. Else it is said what float16 would do.
        step: of Lightning's loggers.

    >>> [f.kind for f in judge(["a"], {"a": torch.float16}, [[4e4], [1.0], [0.0], [9.0]], half=True, step=1)]
    ['little headroom']
    """
    out = []
    for i, name in enumerate(names):
        top, _, small, there = (row[i] for row in measured)
        counted = not half or dtypes.get(name) == torch.float16
        if counted and 0 < top < math.inf and (bits := math.log2(LARGEST / top)) < _LITTLE_HEADROOM:
            text = f"its largest output was {top:.3g}, {bits:.1f} bits below float16's limit"
            if bits < 0:
                text = f"its largest output was {top:.3g}; float16 ends at 65,504"
            out.append(Finding("little headroom", name, text, _islands(name, "precision='bf16-mixed'", half), step))
        if there and small / there > _MUCH_UNDERFLOW and dtypes.get(name) is not None:
            share = f"{small / there:.0%} of its nonzero gradients are below 6.1e-05, where float16 loses bits"
            advice = (
                "Use precision='bf16-mixed', which has the range of float32"
                if half
                else "Stay away from 16-mixed in this model; bf16-mixed has the range of float32"
            )
            out.append(Finding("underflow", name, share, advice, step))
    return out


def _islands(name: str, other: str, half: bool = True) -> str:
    if not half:
        return f"Under 16-mixed it would need FP32Islands([{name!r}]); bf16-mixed has the range of float32"
    return f"Use FP32Islands([{name!r}]) or {other}"


def explain(calls: Sequence[Call], *, loss_finite: bool, input_finite: bool, step: int) -> Finding | None:
    """Return what went wrong in a forward pass; None when nothing did, so that the backward pass must have.

    Args:
        calls: in the order in which they ended.
        loss_finite: whether the loss was.
        input_finite: whether the batch was.
        step: of Lightning's loggers.

    >>> calls = [Call("a", 9.0, 3e4), Call("b", 3e4, math.inf)]
    >>> explain(calls, loss_finite=False, input_finite=True, step=3).text
    'its output was not finite; its input reached 3e+04'
    """
    if not input_finite:
        return Finding("nonfinite input", "", "the batch holds NaN or inf", "Look at the data of this step", step)
    bad = next((c for c in calls if not c.largest_output < math.inf and not c.masks), None)
    if bad is not None:
        name, into = bad.name, bad.largest_input
        if not bad.weights_finite:
            return Finding("nonfinite weight", name, "its weights are not finite", "Go back to a checkpoint", step)
        if into < math.inf:
            text = f"its output was not finite; its input reached {into:.3g}"
            return Finding("forward overflow", name, text, _islands(name, "precision='bf16-mixed'"), step)
        text = "its input was not finite though no module before it gave such an output: a function between them did"
        advice = "Put that function into lightning_tricks.functional.in_fp32, or use precision='bf16-mixed'"
        return Finding("forward overflow", f"before {name}", text, advice, step)
    if not loss_finite:
        advice = "Compute the loss in float32 (lightning_tricks.functional.in_fp32), or check it for log(0) and 0/0"
        return Finding("loss overflow", "", "every module's output was finite, the loss was not", advice, step)
    return None


def too_large(scale: float, names: Sequence[str], step: int) -> Finding:
    """Return the finding of an ordinary overflow: forward pass and loss were finite, the scaled gradient was not.

    >>> too_large(65536.0, ["head.weight"], 4).ordinary
    True
    """
    text = f"forward pass and loss were finite at scale {scale:g}; gradients of {_listed(names)} were not"
    return Finding("loss scale too large", "", text, "The GradScaler halves its scale; nothing to do", step)


def hopeless(scale: float, names: Sequence[str], times: int, step: int) -> Finding:
    """Return the finding of gradients that stay NaN or inf although the scale fell and fell.

    >>> hopeless(1.0, ["head.weight"], 12, 4).kind
    'backward overflow'
    """
    text = f"gradients of {_listed(names)} were not finite in {times} attempts in a row, down to scale {scale:g}"
    advice = (
        "Look for sqrt, norm, log or a division at 0 behind it: their derivatives are infinite at any scale. Add an eps"
    )
    return Finding("backward overflow", names[-1] if names else "", text, advice, step)


def unexplained(loss_finite: bool, step: int) -> Finding:
    """Return the finding of a skip whose forward pass could not be looked at again.

    >>> unexplained(True, 4).text
    'the loss was finite: probably the loss scale was too large'
    """
    text = "the loss was finite: probably the loss scale was too large" if loss_finite else "the loss was not finite"
    return Finding("unexplained skip", "", text, "If there are many, look at amp/headroom of the modules", step)


def overflow_elsewhere(name: str, step: int) -> Finding:
    """Return the finding of an overflow in another process.

    >>> overflow_elsewhere("head", 4).module
    'head'
    """
    text = "its output was not finite on another process"
    return Finding("forward overflow", name, text, _islands(name, "precision='bf16-mixed'"), step)


def readable(names: Sequence[str], measured: Sequence[Sequence[float]], scale: float) -> dict[str, dict[str, float]]:
    """Return the measured table with names; gradients without the loss scale, modules that were not called left out.

    >>> readable(["a"], [[2.0], [8.0], [1.0], [4.0]], scale=4.0)["a"]["largest_gradient"]
    2.0
    """
    out = {}
    for i, name in enumerate(names):
        top, gradient, small, there = (row[i] for row in measured)
        if top >= 0:
            out[name] = {
                "largest_output": top,
                "largest_gradient": gradient / scale if gradient >= 0 else math.nan,
                "headroom": -math.inf if math.isinf(top) else math.log2(LARGEST / top) if top > 0 else math.inf,
                "underflow": small / there if there else math.nan,
            }
    return out


def small_eps(eps: float, step: int) -> Finding:
    """Return the finding of an Adam whose eps is 0 in float16.

    >>> small_eps(1e-8, 0).kind
    'small eps'
    """
    text = f"eps={eps:g} is 0 in float16 (smallest number: 6e-08), so that the first update divides by 0"
    return Finding("small eps", "", text, "Use eps=1e-4, or precision='bf16-true' or '16-mixed'", step)


def _listed(names: Sequence[str]) -> str:
    return listed(names, 6) or "unknown parameters"
