"""What the experiments of SanityCheck mean: numbers and tensors in, passed or not, and the fix. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_tricks.errors import listed

_FAR = 0.5
_CHANCE = 3.0


@dataclass(frozen=True)
class Check:
    """The result of one experiment.

    Args:
        name: what was asked.
        passed: the answer; None where it could not be told.
        evidence: the numbers.
        fix: what to do, for one that did not pass.

    Example:
        >>> Check("overfits one batch", True, "2.3 -> 0.01 in 40 updates").mark
        'pass'
    """

    name: str
    passed: bool | None
    evidence: str
    fix: str = ""

    @property
    def mark(self) -> str:
        """``pass``, ``FAIL`` or ``?``."""
        return {True: "pass", False: "FAIL", None: "?"}[self.passed]


def initial_loss(loss: float, counts: Sequence[float], entropy: float | None = None) -> Check:
    """Compare the first loss with that of not knowing anything, ``ln C``; offer the bias that the labels imply.

    Args:
        loss: mean cross entropy before the first update, in nats.
        counts: labels seen by class ``[C]``.
        entropy: cross entropy of the logits and labels that were found, where they were.

    >>> initial_loss(2.31, [10.0] * 10).passed, initial_loss(9.0, [10.0] * 10).passed
    (True, False)
    """
    name, classes = "initial loss", len(counts)
    uniform = math.log(classes)
    total = sum(counts)
    shares = [c / total for c in counts]
    prior = -sum(p * math.log(p) for p in shares if p > 0)
    seen = f"{loss:.3f}; knowing nothing of {classes} classes gives {uniform:.3f}"
    bias = ""
    if prior < 0.9 * uniform:
        shown = ", ".join(f"{math.log(max(p, 1e-4)):.2f}" for p in shares[:8]) + (", ..." if classes > 8 else "")
        bias = f"; an output bias of log frequencies [{shown}] would start at {prior:.3f}"
    if not math.isfinite(loss):
        return Check(name, False, f"it is {loss}", "look at the first batch and the loss function: NaN, inf, log(0)")
    if abs(loss - uniform) <= _FAR * uniform:
        return Check(name, True, seen + bias)
    if entropy is not None and loss > 1.5 * entropy + 0.1:
        return Check(
            name, None, f"{seen}, and their cross entropy is {entropy:.3f}", "the loss holds something else too"
        )
    if loss < uniform:
        why = "does the input hold the label, or is the loss divided by something?"
    else:
        why = "scale the last layer down (weights times 0.1, bias 0); is softmax applied twice?"
    return Check(name, False, seen + bias, why)


def initial_regression(loss: float, target: Tensor) -> Check:
    """Compare the first squared error with that of always answering the mean.

    >>> initial_regression(1.2, torch.tensor([0.0, 2.0])).passed
    True
    """
    variance = float(target.float().var(unbiased=False))
    seen = f"{loss:.4g}; always answering the mean gives {variance:.4g}"
    if not math.isfinite(loss):
        return Check("initial loss", False, f"it is {loss}", "look at the first batch and the loss function")
    if loss <= 3 * variance + 1e-12:
        return Check("initial loss", True, seen)
    mean = float(target.float().mean())
    return Check("initial loss", None, seen, f"set the output bias to the mean {mean:.4g}, or standardise the target")


def overfits(losses: Sequence[float], floor: float = 0.0) -> Check:
    """Judge the losses of updates on one batch.

    Args:
        losses: before each update.
        floor: what cannot be got below, e.g. for a loss that is negative.

    >>> overfits([2.3, 1.0, 0.1]).passed, overfits([2.3, 2.3, 2.29]).passed
    (True, False)
    """
    name = "overfits one batch"
    finite = [x for x in losses if math.isfinite(x)]
    if len(finite) < len(losses) or not finite:
        return Check(name, False, "the loss became NaN or inf", "lower the learning rate; GradientClip(1.0)")
    first, best = finite[0], min(finite[-max(1, len(finite) // 5) :])
    size = max(abs(first - floor), 1e-12)
    gain = (first - best) / size
    seen = f"{first:.3g} -> {best:.3g} in {len(losses) - 1} updates of the same batch"
    if gain >= 0.5:
        return Check(name, True, seen)
    falling = len(finite) > 10 and finite[-1] < finite[len(finite) // 2] - 0.02 * size
    if falling and gain > 0.1:
        return Check(name, None, seen + ", and still falling", "probably slow only: try LRFinder()")
    fix = (
        "a model that cannot learn one batch by heart has a bug: learning rate, frozen or detached parts, loss, labels"
    )
    return Check(name, False, seen, fix)


def input_matters(change: float) -> Check:
    """Judge how much the outputs change when the input is zeroed, over their size.

    >>> input_matters(0.3).passed, input_matters(0.0).passed
    (True, False)
    """
    seen = f"outputs change by {change:.2g} of their size when the input is zeroed"
    if change > 1e-5:
        return Check("inputs matter", True, seen)
    return Check(
        "inputs matter", False, seen, "follow the input through the model: a factor of 0, a detached or dead layer"
    )


def independence(in_eval: float, in_training: float, batch_norm: Sequence[str]) -> Check:
    """Judge how much the output of one sample changes when the others are replaced, over its size.

    >>> independence(0.0, 0.2, ["body.1"]).evidence
    'in eval mode 0; in training 0.2, through BatchNorm (body.1), which is meant to'
    """
    name = "samples do not leak"
    if in_eval > 1e-3:
        seen = f"a sample's output changes by {in_eval:.2g} of its size when the others are replaced, in eval mode"
        return Check(
            name, False, seen, "look for reshape or view that mixes the batch, softmax or mean over dimension 0"
        )
    seen = f"in eval mode {in_eval:.1g}"
    if in_training > 1e-3 and batch_norm:
        seen += f"; in training {in_training:.1g}, through BatchNorm ({batch_norm[0]}), which is meant to"
    elif in_training > 1e-3:
        fix = "in training mode only, and there is no BatchNorm: what else looks at the whole batch?"
        return Check(name, None, f"{seen}; in training {in_training:.1g}", fix)
    return Check(name, True, seen)


def broadcasts(prediction: Tensor, target: Tensor, loss: float) -> Check | None:
    """Find the loss of ``[n, 1]`` against ``[n]``, which compares every prediction with every target.

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0])
    >>> broadcasts(x, y, 0.5).passed, broadcasts(x, y, 0.0) is None
    (False, True)
    """
    if prediction.shape == target.shape or prediction.numel() != target.numel() or target.numel() < 2:
        return None
    p, t = prediction.detach().float(), target.detach().float()
    try:
        differences = p - t
    except RuntimeError:
        return None
    if differences.numel() == target.numel():
        return None
    wrong = (float(differences.square().mean()), float(differences.abs().mean()))
    if not any(math.isclose(loss, w, rel_tol=1e-3, abs_tol=1e-9) for w in wrong):
        return None
    seen = f"predictions {tuple(p.shape)} against targets {tuple(t.shape)} are broadcast to {tuple(differences.shape)}"
    return Check(
        "shapes of outputs and labels", False, seen, "squeeze the prediction: loss(prediction.squeeze(-1), target)"
    )


def neighbours_agree(inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return how often the nearest other sample has the same label, in standard errors above chance, and the share.

    Args:
        inputs: ``[n, d]``.
        labels: ``[n]``.

    >>> z, share = neighbours_agree(torch.tensor([[0.0], [0.1], [5.0], [5.1]] * 5), torch.tensor([0, 0, 1, 1] * 5))
    >>> z > 3, share
    (True, 1.0)
    """
    apart = torch.cdist(inputs.double(), inputs.double()).fill_diagonal_(torch.inf)
    same = float((labels[apart.argmin(1)] == labels).double().mean())
    n = len(labels)
    shares = torch.bincount(labels.clamp(min=0)).double() / n
    chance = float(shares.square().sum())
    error = math.sqrt(max(chance * (1 - chance), 1e-12) / n)
    return (same - chance) / error, same


def labels_follow(z: float, share: float, skill: float | None) -> Check:
    """Judge whether labels belong to their inputs, from nearest neighbours and from a short training.

    Args:
        z: standard errors above chance of ``neighbours_agree``.
        share: of neighbours with the same label.
        skill: on batches that were not trained on, after a short training; None when it was not needed.

    >>> labels_follow(20.0, 0.9, None).passed, labels_follow(0.3, 0.1, -0.1).passed
    (True, False)
    """
    name = "labels follow from inputs"
    seen = f"{share:.0%} of nearest neighbours have the same label ({z:+.1f} standard errors from chance)"
    if z > _CHANCE:
        return Check(name, True, seen)
    if skill is None:
        return Check(name, None, seen, "neighbours of raw inputs say nothing here")
    seen += f"; after a short training the skill on unseen batches is {skill:.2f}"
    if skill > 0.02:
        return Check(name, True, seen)
    return Check(name, False, seen, "inputs and labels may have been shuffled or sorted apart: look at some pairs")


def gradients_arrive(
    missing: Sequence[str], zero: Sequence[str], frozen: Sequence[str], forgotten: Sequence[str]
) -> Check:
    """Judge which parameters take part.

    Args:
        missing: require a gradient and got none.
        zero: got one that is 0 everywhere.
        frozen: do not require one.
        forgotten: got one and are in no optimizer.

    >>> gradients_arrive([], [], ["body.weight"], []).evidence
    'all parameters get gradients; frozen: body.weight'
    """
    name = "all parameters learn"
    told = f"; frozen: {listed(frozen, 6)}" if frozen else ""
    if forgotten:
        return Check(
            name, False, f"in no optimizer: {listed(forgotten, 6)}{told}", "pass self.parameters() to the optimizer"
        )
    if missing:
        fix = "are they used in the forward pass? detached? Then freeze or remove them"
        return Check(name, False, f"no gradient: {listed(missing, 6)}{told}", fix)
    if zero:
        return Check(
            name, False, f"gradient 0 everywhere: {listed(zero, 6)}{told}", "a dead layer, or a factor of 0 behind them"
        )
    return Check(name, True, f"all parameters get gradients{told}")


def units_live(stopped: Sequence[tuple[str, str, float]]) -> Check:
    """Judge layers before the first update.

    Args:
        stopped: name, kind (``"dead"`` or ``"saturated"``) and share of units, of each layer with more than 80 %.

    >>> units_live([("net.1", "dead", 0.97)]).evidence
    '97% of net.1 are dead'
    """
    name = "units are alive"
    if not stopped:
        return Check(name, True, "no activation layer has more than 80% of its units dead or saturated")
    seen = "; ".join(f"{share:.0%} of {layer} are {kind}" for layer, kind, share in stopped[:4])
    return Check(name, False, seen, "look at initial weights and biases, and at the scale of the inputs")
