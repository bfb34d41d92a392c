"""What the experiments of SanityCheck on a model mean: numbers in, passed or not, and the fix. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_tricks.errors import listed

_FAR = 0.5  # of ln C
_SKILL = 0.3  # of one batch, against answering the same for every sample
_NOTHING = 0.05


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


def initial_loss(loss: float, counts: Sequence[float], *, recovers: bool | None = None) -> Check:
    """Compare the first cross entropy with that of not knowing anything, ``ln C``; offer the bias that labels imply.

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
        return Check(name, None, f"{seen}, and it falls quickly", fix)
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
    return Check("initial loss", True if falls else False, seen, "" if falls else fix)


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


@dataclass(frozen=True)
class Trial:
    """Some updates on one batch.

    Args:
        factor: on the learning rate.
        losses: before each update.
    """

    factor: float
    losses: tuple[float, ...]

    @property
    def finite(self) -> bool:
        """Whether all losses are."""
        return bool(self.losses) and all(map(math.isfinite, self.losses))

    @property
    def best(self) -> float:
        """The least loss of the last fifth."""
        return min(self.losses[-max(1, len(self.losses) // 5) :])

    @property
    def falls_still(self) -> bool:
        """Whether the last quarter is below the one before it, by more than a thousandth of the first loss."""
        quarter = max(1, len(self.losses) // 4)
        last, before = self.losses[-quarter:], self.losses[-2 * quarter : -quarter]
        if not before:
            return False
        return sum(before) / len(before) - sum(last) / len(last) > 1e-3 * abs(self.losses[0])


def learned(trial: Trial, constant: float | None, noise: float = 0.0) -> bool:
    """Whether the updates of a trial have taught something: then no other rate has to be tried.

    Args:
        trial: finished or under way.
        constant: loss of the best constant answer on that batch; None where the loss is not a usual one.
        noise: between two looks at the same batch.

    >>> learned(Trial(1.0, (2.3, 1.0, 0.5)), 2.2), learned(Trial(1.0, (2.3, 2.25)), 2.2)
    (True, False)
    """
    if not trial.finite or len(trial.losses) < 2:
        return False
    first, best = trial.losses[0], trial.best
    if constant is not None and constant > 0:
        return best < (1 - _SKILL) * constant and (first - best > 0 or first < 0.1 * constant)
    return first - best > max(0.5 * abs(first), 3 * noise)


def overfits(trials: Sequence[Trial], constant: float | None = None, noise: float = 0.0, moves: bool = True) -> Check:
    """Judge updates on one batch, at the run's own learning rate first.

    A loss that is not a usual one of outputs and targets may have a floor above 0, or none: whatever moves cannot be
    called wrong.

    Args:
        trials: at several learning rates.
        constant: loss of the best constant answer on that batch; None where the loss is not a usual one.
        noise: between two looks at the same batch with other random numbers.
        moves: whether the learning rate is above 0.

    >>> overfits([Trial(1.0, (2.3, 1.0, 0.1))], 2.2).passed, overfits([Trial(1.0, (2.3,) * 60)], 2.2).passed
    (True, False)
    """
    name = "overfits one batch"
    own = trials[0]
    if not own.losses:
        return Check(name, None, "training_step returned None")
    if not own.finite:
        return Check(name, False, "the loss became NaN or inf", "lower the learning rate; GradientClip(1.0)")
    first, best = own.losses[0], own.best
    seen = f"{first:.3g} -> {best:.3g} in {len(own.losses) - 1} updates of the same batch"
    if learned(own, constant, noise):
        return Check(name, True, seen)
    if not moves:
        return Check(name, None, f"{seen}; the learning rate is 0 before the first update")
    others = [t for t in trials[1:] if t.finite]
    better = next((t for t in others if learned(t, constant, noise)), None)
    if better is not None and better.factor < 1 and own.losses[-1] > first:
        fix = f"with {better.factor:g} times the learning rate it does ({first:.3g} -> {better.best:.3g}): LRFinder()"
        return Check(name, False, seen, fix)
    if better is not None:
        fix = f"with {better.factor:g} times the learning rate it does ({first:.3g} -> {better.best:.3g}): LRFinder()"
        return Check(name, None, seen, fix)
    if noise > _NOTHING * abs(first):
        return Check(name, None, f"{seen}; two looks at it differ by {noise:.2g}")
    fix = "a model that cannot learn one batch by heart has a bug: frozen or detached parts, loss, labels"
    finite = [own, *others]
    if all(abs(loss - first) <= 1e-6 * abs(first) for t in finite for loss in t.losses):
        satisfied = abs(first) < 1e-6  # (all triplets are far enough apart)
        return Check(name, None if satisfied else False, seen, "" if satisfied else fix)
    if constant is None:
        return Check(name, True if first - best > _NOTHING * abs(first) + 3 * noise else None, seen)
    if constant <= 1e-6 or any(t.falls_still for t in finite):
        return Check(name, None, f"{seen}, and still falling", "probably slow only: try LRFinder()")
    if min(t.best for t in finite) < (1 - _NOTHING) * constant:
        return Check(name, None, f"{seen}; answering the same for all samples gives {constant:.3g}")
    return Check(name, False, f"{seen}; answering the same for all samples gives {constant:.3g}", fix)


def input_matters(outputs: float | None, loss: float | None, updates: int = 0, *, moved: bool = True) -> Check:
    """Judge how much outputs and loss change when the inputs are zeroed.

    Args:
        outputs: change of the prediction over its size; None where no prediction was seen.
        loss: change of the loss over its size.
        updates: made before.
        moved: whether these updates changed the loss at all.

    >>> input_matters(0.3, 0.1).passed, input_matters(0.0, 0.0, 5).passed, input_matters(0.0, 0.0, 5, moved=False).passed
    (True, False, None)
    """
    name = "inputs matter"
    what = [f"outputs change by {outputs:.2g} of their size"] if outputs is not None else []
    what += [f"the loss by {loss:.2g}"] if loss is not None else []
    seen = " and ".join(what) + " when the input is zeroed" + (f", after {updates} updates" if updates else "")
    if not what:
        return Check(name, None, "no output of a module was seen")
    if (outputs is not None and outputs > 1e-5) and (loss is None or loss > 1e-6):
        return Check(name, True, seen)
    if outputs is None and loss is not None and loss > 1e-6:
        return Check(name, True, seen)
    if not moved:
        return Check(name, None, f"{seen}, and these updates change nothing that can be seen")
    fix = "follow the input through the model: a factor of 0, a detached or dead layer"
    return Check(name, False, seen, fix)


def independence(in_eval: float, in_training: float, batch_norm: Sequence[str], *, by_design: str = "") -> Check:
    """Judge how much the output of one sample changes when the others are replaced, over its size.

    Args:
        in_eval: change in eval mode.
        in_training: change in training mode.
        batch_norm: names of such modules.
        by_design: why samples may depend on each other here; empty where they must not.

    >>> independence(0.0, 0.2, ["body.1"]).evidence
    'in eval mode 0; in training 0.2, through BatchNorm (body.1), which is meant to'
    """
    name = "samples do not leak"
    if in_eval > 1e-3:
        seen = f"a sample's output changes by {in_eval:.2g} of its size when the others are replaced, in eval mode"
        fix = "look for reshape or view that mixes the batch, softmax or mean over dimension 0, batch_first"
        return Check(name, None, f"{seen}; {by_design}") if by_design else Check(name, False, seen, fix)
    seen = f"in eval mode {in_eval:.1g}"
    if in_training > 1e-3 and batch_norm:
        seen += f"; in training {in_training:.1g}, through BatchNorm ({batch_norm[0]}), which is meant to"
    elif in_training > 1e-3:
        fix = "in training mode only, and there is no BatchNorm: what else looks at the whole batch?"
        return Check(name, None, f"{seen}; in training {in_training:.1g}", fix)
    return Check(name, True, seen)


def no_future(change: float) -> Check:
    """Judge how much outputs change at places before those whose inputs were replaced, over their size.

    >>> no_future(0.0).passed, no_future(0.2).passed
    (True, False)
    """
    seen = f"outputs change by {change:.2g} of their size when later elements of the sequence are replaced"
    if change <= 1e-3:
        return Check("no look into the future", True, seen)
    fix = "a causal mask (is_causal=True), a unidirectional network, padding on the left only"
    return Check("no look into the future", False, seen, fix)


def pairing(invariant: bool, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Check | None:
    """Report a loss that does not depend on which target belongs to which prediction: ``[n, 1]`` against ``[n]``.

    >>> pairing(True, ((8, 1), (8,))).evidence
    'predictions (8, 1) and targets (8,): the loss stays the same when the targets change places, so they are broadcast'
    """
    if not invariant:
        return None
    seen = (
        f"predictions {shapes[0]} and targets {shapes[1]}: the loss stays the same when the targets change places, "
        "so they are broadcast"
    )
    fix = "squeeze the prediction: loss(prediction.squeeze(-1), target)"
    return Check("shapes of outputs and labels", False, seen, fix)


def wrong_partner(partners: Sequence[int], sample: int) -> Check | None:
    """Report a label whose change reaches the gradients of other samples only.

    Args:
        partners: samples whose input gradients change with the label.
        sample: to which the label belongs.

    >>> wrong_partner([0, 3], 3) is None, wrong_partner([1], 3).passed
    (True, False)
    """
    if not partners or sample in partners:
        return None
    seen = f"the label of sample {sample} goes with the input of sample {partners[0]}"
    fix = "look at the order of both: repeat for repeat_interleave, view for permute, a shuffle of one of them"
    return Check("shapes of outputs and labels", False, seen, fix)


@dataclass(frozen=True)
class Gradients:
    """Which parameters take part, by name.

    Args:
        detached: in an optimizer, part of the loss, and cut off from it: no gradient.
        unused: no gradient, and nothing that shows that there should be one.
        zero: a gradient that is 0 everywhere, on several batches and after several updates.
        all_zero: whether that are all of them, or most.
        frozen: do not require a gradient.
        forgotten: have a gradient, and no optimizer, though their neighbours have one.
        left_out: have a gradient and no optimizer, as whole modules.
        kept: whether gradients are never cleared.
        idle: whether no weight moved at all.
    """

    detached: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()
    all_zero: bool = False
    frozen: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    kept: bool = False
    idle: bool = False


def gradients_arrive(found: Gradients) -> Check:
    """Judge which parameters take part.

    >>> gradients_arrive(Gradients(frozen=("body.weight",))).evidence
    'all parameters get gradients; frozen: body.weight'
    """
    name = "all parameters learn"
    told = f"; frozen: {listed(found.frozen, 6)}" if found.frozen else ""
    if found.kept:
        fix = "optimizer_zero_grad must clear them, or leave it out: Lightning does it"
        return Check(name, False, f"gradients are never cleared between updates{told}", fix)
    if found.forgotten:
        seen = f"in no optimizer: {listed(found.forgotten, 6)}{told}"
        return Check(name, False, seen, "pass self.parameters() to the optimizer, after the last layer was replaced")
    if found.detached:
        seen = f"no gradient, though the loss depends on them: {listed(found.detached, 6)}{told}"
        return Check(name, False, seen, "a detach(), .data or numpy() behind them? Or freeze them: requires_grad_(False)")
    if found.zero and not found.idle:
        seen = f"gradient 0 everywhere: {listed(found.zero, 6)}{told}"
        return Check(name, False if found.all_zero else None, seen, "a dead layer, or a factor of 0 behind them")
    if found.idle and found.zero:
        return Check(name, None, f"gradient 0 everywhere: {listed(found.zero, 6)}, and no weight moves yet{told}")
    if found.unused:
        fix = "they take no part in this loss: freeze or remove them, if that is not meant"
        return Check(name, None, f"no gradient: {listed(found.unused, 6)}{told}", fix)
    if found.left_out:
        seen = f"in no optimizer, as a whole: {listed(found.left_out, 6)}{told}"
        return Check(name, None, seen, "requires_grad_(False), if that is meant; else pass self.parameters()")
    return Check(name, True, f"all parameters get gradients{told}")


def units_live(stopped: Sequence[tuple[str, str, float]], rows: int) -> Check:
    """Judge layers before the first update.

    Args:
        stopped: name, kind (``"dead"`` or ``"saturated"``) and share of units, of each layer with more than 80 %.
        rows: samples that were seen.

    >>> units_live([("net.1", "dead", 0.97)], 512).evidence, units_live([("net.1", "dead", 0.85)], 512).passed
    ('97% of net.1 are dead', None)
    """
    name = "units are alive"
    if not stopped:
        return Check(name, True, "no activation layer has more than 80% of its units dead or saturated")
    seen = "; ".join(f"{share:.0%} of {layer} are {kind}" for layer, kind, share in stopped[:4])
    fix = "look at initial weights and biases, and at the scale of the inputs"
    # sparse autoencoders and small batches have most units at rest, and learn
    certain = rows >= 16 and any(share > 0.95 for _, _, share in stopped)
    return Check(name, False if certain else None, seen, fix)


def in_training_mode(evaluating: Sequence[str], pretrained: Sequence[str]) -> Check:
    """Judge modules that behave differently in training and are not in training mode.

    Args:
        evaluating: trained ones in eval mode, by name.
        pretrained: normalisation layers in eval mode, whose statistics were gathered before.

    >>> in_training_mode(["net.1"], []).passed, in_training_mode([], ["net.1"]).passed, in_training_mode([], []).passed
    (False, None, True)
    """
    name = "modules are in training mode"
    if evaluating:
        seen = f"in eval mode, though trained: {listed(evaluating, 6)}"
        fix = "module.train() before the fit: Lightning keeps the mode that it finds, and from_pretrained gives eval mode"
        return Check(name, False, seen, fix)
    if pretrained:
        seen = f"in eval mode with the statistics of an earlier training: {listed(pretrained, 6)}"
        return Check(name, None, seen, "fine where that is meant (small batches); else module.train()")
    return Check(name, True, "dropout and normalisation that are trained are in training mode")
