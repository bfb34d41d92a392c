"""What the first loss means: is it that of chance, of outputs squashed twice, of a sum? No Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from lightning_tricks.diagnosis.sanity import Check

_FAR = 0.5  # of ln C
_HUGE = 1e3  # targets over outputs


def initial_loss(loss: float, counts: Sequence[float], *, recovers: bool | None = None) -> Check:
    """Compare the first cross entropy with that of chance, ``ln C``; offer the bias that labels imply.

    Args:
        loss: mean cross entropy before the first update, in nats.
        counts: labels seen by class ``[C]``.
        recovers: whether some updates bring a large loss down; None where that was not tried.

    >>> initial_loss(2.31, [10.0] * 10).passed, initial_loss(9.0, [10.0] * 10).passed
    (True, False)
    """
    name, classes = "initial loss", len(counts)
    uniform = math.log(classes)
    total = max(sum(counts), 1.0)
    shares = [c / total for c in counts]
    prior = -sum(p * math.log(p) for p in shares if p > 0)
    seen = f"{loss:.3f}; knowing nothing of {classes} classes gives {uniform:.3f}"
    bias = ""
    if prior < 0.9 * uniform:
        # (1e-4: a class that was not seen would have a bias of -inf)
        shown = ", ".join(f"{math.log(max(p, 1e-4)):.2f}" for p in shares[:8]) + (", ..." if classes > 8 else "")
        bias = f"; an output bias of log frequencies [{shown}] would start at {prior:.3f}"
    if not math.isfinite(loss):
        return Check(name, False, f"it is {loss}", "look at the first batch and the loss function: NaN, inf, log(0)")
    if loss < min((1 - _FAR) * uniform, 0.8 * prior):
        fix = "expected of a model that was trained before; else look whether the input holds the label"
        return Check(name, None, seen + bias, fix)
    if loss <= 3 * uniform:
        return Check(name, True, seen + bias)
    fix = "scale the last layer down (weights times 0.1, bias 0)"
    if recovers:
        return Check(name, None, f"{seen}, and it falls", fix)
    return Check(name, False, seen + bias, fix)


def applied_twice(loss: float, twice: str) -> Check:
    """Report a loss whose value is that of outputs that were squashed once too often.

    >>> applied_twice(2.3, "softmax").evidence
    '2.3; that is the loss of outputs to which softmax was applied twice'
    """
    if twice == "softmax over the batch":
        seen = f"{loss:.4g}; that is the loss of a softmax over the samples of a batch, dimension 0"
        return Check("initial loss", False, seen, "softmax(dim=-1), or none at all before cross_entropy")
    seen = f"{loss:.4g}; that is the loss of outputs to which {twice} was applied twice"
    fix = f"give the loss the outputs before {twice}: cross_entropy and *_with_logits apply it themselves"
    return Check("initial loss", False, seen, fix)


def wrong_factor(loss: float, kind: str, factor: float, falls: bool) -> Check:
    """Report a loss that is a multiple of the mean.

    Args:
        loss: as ``training_step`` returns it.
        kind: of which loss it is the multiple.
        factor: loss over mean.
        falls: whether some updates bring it down.

    >>> wrong_factor(-2.3, "cross entropy", -1.0, True).passed, wrong_factor(147.0, "cross entropy", 64.0, True).passed
    (False, True)
    """
    if factor < 0:
        return Check("initial loss", False, f"{loss:.4g}; that is minus the {kind}", "flip its sign: it is minimised")
    seen = f"{loss:.4g}; that is {factor:g} times the mean {kind}, so it is summed"
    fix = f"reduction='mean', or a learning rate that is {factor:g} times smaller"
    return Check("initial loss", falls, seen, "" if falls else fix)


def risk_reversed(loss: float) -> Check:
    """Report Cox's partial likelihood whose risk sets are the wrong way round.

    >>> risk_reversed(2.9).passed
    False
    """
    seen = f"{loss:.4g}; that is Cox's partial likelihood with those who went before as the risk set"
    return Check("initial loss", False, seen, "sort by falling time before logcumsumexp: at risk is who lives longer")


def initial_regression(loss: float, target: Tensor, size: float = 1.0, falls: bool = True) -> Check:
    """Compare the first squared error with that of always answering the mean.

    Args:
        loss: the mean squared error.
        target: of the first batch.
        size: of the outputs, root mean square.
        falls: whether some updates bring the loss down by a hundredth.

    >>> import torch
    >>> target = torch.tensor([0.0, 2.0])
    >>> initial_regression(1.2, target).passed, initial_regression(1.2e8, 1e4 * target, 0.1, falls=False).passed
    (True, False)
    """
    name, variance = "initial loss", float(target.float().var(unbiased=False))
    seen = f"{loss:.4g}; always answering the mean gives {variance:.4g}"
    scale = float(target.float().square().mean().sqrt()) / max(size, 1.0)
    if scale > _HUGE and not falls:
        seen += f"; the targets are {scale:.2g} times as large as the outputs, and the loss hardly falls"
        return Check(name, False, seen, "standardise the targets")
    if loss <= 3 * variance + 1e-12:
        return Check(name, True, seen)
    mean = float(target.float().mean())
    return Check(name, None, seen, f"set the output bias to the mean {mean:.4g}, or standardise the target")
