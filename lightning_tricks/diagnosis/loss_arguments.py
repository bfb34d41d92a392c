"""What loss functions are given and cannot mean: probabilities for logarithms, 0 for -1, a pair that broadcasts.

Each rule is about the definition of one function of torch, so that it holds for every training. Numbers in, a check
that failed out, or None. No Lightning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_tricks.diagnosis.loss_calls import LossCall
from lightning_tricks.diagnosis.sanity import Check

VALUES, SHAPES = "initial loss", "shapes of outputs and labels"
_NEAR = 1e-2  # of 1, for sums of probabilities of low precision
_FEWEST = 8  # numbers from which a rule says something
_TINY = 0.02  # targets that are meant to reach 1
_ROUNDING = 1e-5  # of a scalar product of float32


def misused(calls: Sequence[LossCall]) -> Check | None:
    """Return what is wrong with the first call that is; None where nothing is.

    Args:
        calls: of one training step.

    >>> given, wanted = torch.randn(8, 4).softmax(1), torch.randn(8, 4).softmax(1)
    >>> print(misused([LossCall("kl_div", given, wanted)]).fix)
    kl_div(outputs.log_softmax(-1), target): its first argument is a logarithm, its second is not
    >>> misused([LossCall("kl_div", given.log(), wanted)]) is None
    True
    """
    for call in calls:
        if call.output.numel() < _FEWEST or not bool(call.output.isfinite().all()):
            continue
        found = next((check for rule in _RULES.get(call.name, ()) if (check := rule(call)) is not None), None)
        if found is not None:
            return found
    return None


def _sums_to_one(values: Tensor, axis: int) -> bool:
    sums = values.float().sum(axis)
    return bool((values >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=_NEAR)


def _distributed(values: Tensor) -> int | None:
    """Return the axis along which values are probabilities; None for none."""
    axes = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    return next((axis for axis in reversed(axes) if _sums_to_one(values, axis)), None)


def _is_logarithm(values: Tensor) -> bool:
    return _distributed(values.float().exp()) is not None


def _divergence(call: LossCall) -> Check | None:
    """KL divergence takes the logarithm of one distribution, and the other one as it is."""
    fix = "kl_div(outputs.log_softmax(-1), target): its first argument is a logarithm, its second is not"
    if not _is_logarithm(call.output) and bool((call.output > _NEAR).any()):
        what = "probabilities" if _distributed(call.output) is not None else "numbers other than log-probabilities"
        return Check(VALUES, False, f"the first argument of kl_div holds {what}", fix)
    if not call.options.get("log_target", False) and bool((call.target < -_NEAR).any()):
        return Check(VALUES, False, "the second argument of kl_div holds negative numbers, so no probabilities", fix)
    return None


def _likelihood(call: LossCall) -> Check | None:
    """The negative log-likelihood takes logarithms."""
    if call.output.ndim < 2 or not bool((call.output > _NEAR).any()) or _is_logarithm(call.output):
        return None
    what = "probabilities" if _sums_to_one(call.output, 1) else "numbers other than log-probabilities"
    fix = "nll_loss(outputs.log_softmax(1), labels), or cross_entropy(outputs, labels)"
    return Check(VALUES, False, f"nll_loss is given {what}", fix)


def _squashed(call: LossCall) -> Check | None:
    """Cross entropy applies the softmax itself."""
    axis = 1 if call.output.ndim > 1 else 0
    if call.output.shape[axis] < 2 or not _sums_to_one(call.output, axis):
        return None
    fix = "give cross_entropy the outputs before softmax: it applies it itself"
    return Check(VALUES, False, "cross_entropy is given probabilities, so softmax is applied twice", fix)


def _of_itself(call: LossCall) -> Check | None:
    """A contrastive loss asks which vector belongs to which. The similarity of a vector with itself is a constant."""
    output, target = call.output.float(), call.target
    if output.ndim != 2 or target.is_floating_point() or target.shape != output.shape[:1] or len(output) < _FEWEST:
        return None
    if output.shape[1] < _FEWEST or bool(((target < 0) | (target >= output.shape[1])).any()):
        return None
    own = output.gather(1, target[:, None].long())
    others = output[torch.ones_like(output, dtype=torch.bool).scatter(1, target[:, None].long(), False)]
    size = float(own.abs().max())
    same = float(own.max() - own.min()) <= _ROUNDING * size and bool((own >= output.amax(1, keepdim=True)).all())
    # (where all vectors are one, nothing is told)
    if not same or size == 0 or float(others.std()) < _NEAR * size or len(torch.unique(target)) < len(target):
        return None
    seen = f"the output of each label is {float(own[0]):.4g}, the largest of its row: a vector is compared with itself"
    fix = "leave out the diagonal (masked_fill with -inf), and let the other view be the label"
    return Check(VALUES, False, seen, fix)


def _exclusive(call: LossCall) -> Check | None:
    """Labels of which several hold at once need a sigmoid each: a softmax lets one win."""
    output, target = call.output, call.target
    if output.shape != target.shape or output.ndim != 2 or output.shape[1] < 3 or not _sums_to_one(output, 1):
        return None
    several = (target.float().sum(1) > 1.5).float().mean()
    if float(several) < 0.1:
        return None
    seen = f"outputs of a softmax, and {float(several):.0%} of the samples have more than one label"
    return Check(VALUES, False, seen, "one sigmoid for each label: binary_cross_entropy_with_logits(outputs, labels)")


def _of_labels(call: LossCall) -> Check | None:
    """Binary cross entropy takes targets between 0 and 1, and at least one label of the batch holds."""
    target = call.target.float()
    least, most = float(target.min()), float(target.max())
    if least < -_NEAR or most > 1 + _NEAR:
        seen = f"{call.name} is given targets from {least:.4g} to {most:.4g}: its least value is then below 0"
        return Check(VALUES, False, seen, "targets between 0 and 1")
    if least == 0 and 0 < most < _TINY and len(torch.unique(target)) <= 3:
        seen = f"the largest target of {call.name} in a batch is {most:.2g}"
        return Check(VALUES, False, seen, "labels may have been divided twice, as by ToTensor and by 255")
    return None


def _signed(call: LossCall) -> Check | None:
    """Losses with a margin multiply with the target: 0 leaves a pair out, where -1 pushes it apart."""
    values = torch.unique(call.target.float())
    if not bool((values == 0).any()) or bool((values < 0).any()) or not bool((values == 1).any()):
        return None
    fix = f"{call.name} takes targets of 1 and -1: 2 * labels - 1"
    return Check(VALUES, False, f"{call.name} is given targets of 0 and 1", fix)


def _transcripts(call: LossCall) -> Check | None:
    """CTC takes log-probabilities, and targets without the blank."""
    if call.output.ndim == 3 and not _is_logarithm(call.output):
        fix = "ctc_loss(outputs.log_softmax(-1), ...)"
        return Check(VALUES, False, "ctc_loss is given numbers other than log-probabilities", fix)
    return None


def _pairs(call: LossCall) -> Check | None:
    """Errors broadcast silently: ``[n, 1]`` against ``[n]`` compares each output with each target."""
    one, two = call.output, call.target
    # (all pairs of two lists of vectors may be meant: then both are given a dimension of size 1)
    if one.ndim == two.ndim or one.numel() != two.numel():
        return None
    shape = torch.broadcast_shapes(one.shape, two.shape)  # type: ignore[no-untyped-call]
    if shape.numel() == one.numel():
        return None
    seen = f"{call.name} is given {tuple(one.shape)} and {tuple(two.shape)}, and compares {tuple(shape)} pairs"
    return Check(SHAPES, False, seen, "bring both to one shape: outputs.squeeze(-1), or target.unsqueeze(-1)")


Rule = Callable[[LossCall], Check | None]
_RULES: dict[str, tuple[Rule, ...]] = {
    "binary_cross_entropy": (_exclusive, _of_labels),
    "binary_cross_entropy_with_logits": (_exclusive, _of_labels),
    "cosine_embedding_loss": (_signed,),
    "cross_entropy": (_squashed, _of_itself),
    "ctc_loss": (_transcripts,),
    "hinge_embedding_loss": (_signed,),
    "kl_div": (_divergence,),
    "margin_ranking_loss": (_signed,),
    "nll_loss": (_likelihood,),
    "soft_margin_loss": (_signed,),
    **dict.fromkeys(("huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss"), (_pairs,)),
}
