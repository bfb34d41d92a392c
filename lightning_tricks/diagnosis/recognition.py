"""Which loss is this, and of which output and target? Told by computing it once more; torch only.

Shapes say which tensors could belong together; only the value of the loss says which of them do. Without that a second
view, an unused label or an embedding as wide as there are classes is taken for logits and labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_tricks.modules.labels import counts, matched

LEFT_OUT = -100  # what all negative labels become: each training marks with another number what it leaves out
_CLOSE = 2e-5  # float32 sums differ by 1e-6; logits of an untrained layer and their softmax by 1e-3
Kind = Literal["cross entropy", "binary cross entropy", "squared error", "absolute error", "Huber loss"]
Twice = Literal["", "softmax", "sigmoid", "softmax over the batch"]


@dataclass(frozen=True)
class Recognised:
    """A loss that was computed once more, from an output and a target.

    Args:
        kind: what it is.
        prediction: the output as the module gave it.
        target: the target as the batch holds it.
        value: the mean loss of the pair.
        factor: the loss over that mean: 1, -1 for a flipped sign, the number of terms for a sum.
        twice: what was applied once more than it should be.
        logits: ``[n, K]`` for a cross entropy.
        labels: ``[n]``, with -100 for what is left out.
    """

    kind: Kind
    prediction: Tensor
    target: Tensor
    value: float
    factor: float = 1.0
    twice: Twice = ""
    logits: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class _Candidate:
    kind: Kind
    prediction: Tensor
    target: Tensor
    value: float
    terms: tuple[int, ...]
    twice: Twice = ""
    logits: Tensor | None = None
    labels: Tensor | None = None


def recognised(loss: float, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Recognised | None:
    """Find the output and the target from which a loss was computed; None where no usual loss gives its value.

    Args:
        loss: of the whole batch.
        predictions: outputs that may have gone into it, detached, the likeliest first.
        targets: tensors that may be its target, the likeliest first.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> loss = float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        >>> found = recognised(loss, [logits], [labels])
        >>> found.kind, found.factor, found.twice
        ('cross entropy', 2.0, '')
    """
    if not math.isfinite(loss) or loss == 0:  # (0 may be anything that is switched off)
        return None
    # (outputs that are the sigmoid of another one: a loss that takes logits must not get them)
    squashed = {id(p) for p in predictions for q in predictions if _is_sigmoid_of(p, q)}
    pairs = [(p, t) for p in predictions for t in targets]
    candidates = [c for p, t in pairs for c in _candidates(p, t, id(p) in squashed) if math.isfinite(c.value)]
    plain, twice = [c for c in candidates if not c.twice], [c for c in candidates if c.twice]
    # (a loss that both explain is taken for the right one)
    for group in (plain, twice):
        for candidate in group:
            if _close(loss, candidate.value):
                return _found(candidate, 1.0)
    for candidate in plain:
        for factor in (-1.0, *map(float, candidate.terms)):
            # (near 0 every factor would fit)
            if candidate.value > 1e-4 and _close(loss, factor * candidate.value):
                return _found(candidate, factor)
    return None


def _found(c: _Candidate, factor: float) -> Recognised:
    return Recognised(c.kind, c.prediction, c.target, c.value, factor, c.twice, c.logits, c.labels)


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= _CLOSE * max(abs(b), 1e-3)


def _is_sigmoid_of(p: Tensor, q: Tensor) -> bool:
    if p is q or p.shape != q.shape or not bool(((p >= 0) & (p <= 1)).all()):
        return False
    return torch.allclose(p.detach().float(), q.detach().float().sigmoid(), rtol=1e-3, atol=1e-6)


def broadcast(loss: float, prediction: Tensor, target: Tensor) -> bool:
    """Whether a loss is the mean over all pairs of predictions and targets, as of ``[n, 1]`` against ``[n]``.

    Args:
        loss: of the whole batch.
        prediction: one number for each sample.
        target: one number for each sample.

    >>> p, t = torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 3.0])
    >>> broadcast(float(nn.functional.mse_loss(p.expand(2, 2), t.expand(2, 2))), p, t)
    True
    """
    p, t = prediction.float().reshape(-1, 1), target.float().reshape(1, -1)
    p, t = p.expand(len(p), t.shape[1]), t.expand(len(p), t.shape[1])
    functions = (nn.functional.mse_loss, nn.functional.l1_loss, nn.functional.smooth_l1_loss)
    return any(_close(loss, float(function(p, t))) for function in functions)


def reversed_risk(loss: float, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> bool:
    """Whether a loss is Cox's partial likelihood with the risk sets the wrong way round: those who went before.

    Args:
        loss: of the whole batch.
        predictions: outputs, one number for each sample.
        targets: among them the times, and the events as 0 and 1.

    >>> risk, time, event = torch.tensor([0.3, -1.0, 0.6]), torch.tensor([2.0, 1.0, 3.0]), torch.ones(3)
    >>> right, wrong = (float(partial_likelihood(risk, time, event, longer=x)) for x in (True, False))
    >>> reversed_risk(right / 3, [risk], [time, event]), reversed_risk(wrong / 3, [risk], [time, event])
    (False, True)
    >>> some = torch.tensor([1.0, 0.0, 1.0])
    >>> wrong = float(partial_likelihood(risk, time, some, longer=False))
    >>> reversed_risk(wrong / 2, [risk[time.argsort()]], [time, some])
    True
    """
    for risk in predictions:
        single = [t.reshape(-1).float() for t in targets if t.numel() == risk.numel() == len(t) > 2]
        events = [t for t in single if bool(((t == 0) | (t == 1)).all()) and bool(t.any())]
        for event in events:
            for time in [t for t in single if t is not event and len(torch.unique(t)) > 2]:
                # (the sum, or a mean over samples or events)
                shares = (1.0, float(len(time)), float(event.sum()))
                told = {x: _likelihoods(risk, time, event, longer=x) for x in (True, False)}
                if any(_close(loss, right / n) for right in told[True] for n in shares):
                    return False
                if any(_close(loss, wrong / n) for wrong in told[False] for n in shares):
                    return True
    return False


def _likelihoods(risk: Tensor, time: Tensor, event: Tensor, *, longer: bool) -> list[float]:
    """Return the likelihood of risks in the order of the batch, and of those that a step has sorted by time before.

    Without any censored sample the two orders of time cannot be told apart; then both are right.
    """
    orders = [torch.arange(len(time), device=time.device), time.argsort(), time.argsort(descending=True)]
    return [float(partial_likelihood(risk, time[order], event[order], longer=longer)) for order in orders]


def partial_likelihood(risk: Tensor, time: Tensor, event: Tensor, *, longer: bool = True) -> Tensor:
    """Return minus the log of Cox's partial likelihood, summed over events, 0-d.

    Args:
        risk: logarithm of the hazard, one number for each sample.
        time: ``[n]``.
        event: 1 where it ended at that time, ``[n]``.
        longer: compare with those who lived longer, as it should be; else with those who went before.

    >>> partial_likelihood(torch.zeros(2), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor(0.6931)
    """
    # (sorted so that those at risk with a sample are all that come before it)
    order = time.argsort(descending=longer)
    z = risk.detach().float().reshape(-1)[order]
    return ((z.logcumsumexp(0) - z) * event[order]).sum()


def autoregressive(loss: float, predictions: Sequence[Tensor], sequence: Tensor) -> Recognised | None:
    """Find the output that predicts each next element of a sequence which is the input as well; None without one.

    Args:
        loss: of the whole batch.
        predictions: ``[n, T, ...]`` or ``[n, T - 1, ...]``, also with the first two axes flattened.
        sequence: ``[n, T]`` of tokens or ``[n, T, d]`` of values.

    Example:
        >>> tokens, logits = torch.tensor([[0, 1, 1], [1, 0, 1]]), torch.randn(2, 3, 2)
        >>> loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        >>> autoregressive(float(loss), [logits], tokens).kind, autoregressive(0.1, [logits], tokens)
        ('cross entropy', None)
    """
    if sequence.ndim < 2 or sequence.shape[1] < 3:
        return None
    n, length = sequence.shape[:2]
    shaped: list[Tensor] = []
    for prediction in predictions:
        if prediction.ndim > 1 and len(prediction) in (n * length, n * (length - 1)):
            prediction = prediction.reshape(n, -1, *prediction.shape[1:])
        if prediction.ndim < 2 or len(prediction) != n:
            continue
        for axis in range(1, prediction.ndim):
            if prediction.shape[axis] in (length, length - 1):
                shaped.append(prediction.movedim(axis, 1)[:, : length - 1])
    return recognised(loss, shaped, [sequence[:, 1:]])


def _candidates(prediction: Tensor, target: Tensor, squashed: bool) -> Iterator[_Candidate]:
    if prediction.is_complex() or target.is_complex() or not target.numel():
        return
    if not target.is_floating_point():
        columns = target.ndim > 1 and target.shape[-1] == 1  # labels as a column
        for labels in [target, target.squeeze(-1)] if columns else [target]:
            yield from _of_classes(prediction, labels, squashed)
    yield from _of_values(prediction, target, squashed)


def class_pair(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return logits ``[n, K]`` and labels ``[n]``, -100 for what is left out; None where they do not fit.

    >>> class_pair(torch.zeros(2, 3), torch.tensor([1, -1]))[1], class_pair(torch.zeros(2, 3), torch.tensor([1, 3]))
    (tensor([   1, -100]), None)
    """
    pair = matched(prediction, target)
    if pair is None or not pair[1].numel() or int(pair[1].max()) >= pair[0].shape[1]:
        return None
    labels = torch.where(counts(pair[1]), pair[1], LEFT_OUT)
    return (pair[0].float(), labels) if bool((labels >= 0).any()) else None


def _of_classes(prediction: Tensor, target: Tensor, squashed: bool) -> Iterator[_Candidate]:
    pair = class_pair(prediction, target)
    if pair is None:
        return
    logits, labels = pair
    terms = tuple(dict.fromkeys((int((labels >= 0).sum()), len(labels), len(target))))

    def candidate(value: Tensor, of: Tensor, twice: Twice = "") -> _Candidate:
        kind: Kind = "binary cross entropy" if prediction.numel() == target.numel() else "cross entropy"
        return _Candidate(kind, prediction, target, float(value), terms, twice, of, labels)

    if logits.shape[1] == 2 and prediction.numel() == target.numel():  # one logit per sample
        one = logits[:, 1]
        if bool(((one >= 0) & (one <= 1)).all()):
            odds = torch.logit(one, eps=1e-7)
            yield candidate(_entropy(torch.stack([torch.zeros_like(odds), odds], 1), labels), logits)
        else:
            doubled = torch.stack([torch.zeros_like(one), one.sigmoid()], 1)
            yield candidate(_entropy(doubled, labels), logits, "sigmoid")
        yield candidate(_entropy(logits, labels), logits, "sigmoid" if squashed else "")
        return
    for axis, twice in ((1, "softmax"), (0, "softmax over the batch")):
        if axis == 0 and len(logits) < 2:
            continue
        sums = logits.sum(axis)
        if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            logs = logits.clamp(min=1e-12).log()
            likelihood = nn.functional.nll_loss(logs, labels, ignore_index=LEFT_OUT)
            yield candidate(likelihood, logs, "" if axis == 1 else "softmax over the batch")
            yield candidate(_entropy(logits, labels), logits, twice)  # type: ignore[arg-type]
            return
        again = logits.softmax(axis)
        yield candidate(_entropy(again, labels), again, twice)  # type: ignore[arg-type]
        if axis == 0:
            likelihood = nn.functional.nll_loss(again.clamp(min=1e-12).log(), labels, ignore_index=LEFT_OUT)
            yield candidate(likelihood, again, "softmax over the batch")
    yield candidate(_entropy(logits, labels), logits)
    for padding in _paddings(target, labels):  # ignore_index=...
        kept = torch.where(labels == padding, LEFT_OUT, labels)
        if bool((kept >= 0).any()):
            value, count = float(_entropy(logits, kept)), int((kept >= 0).sum())
            yield _Candidate("cross entropy", prediction, target, value, (count, *terms), "", logits, kept)


def _paddings(target: Tensor, labels: Tensor) -> list[int]:
    """Return what may stand for padding in sequences: 0, and what they end with; none where labels are one for each.

    >>> _paddings(torch.tensor([[3, 4, 9]]), torch.tensor([3, 4, 9])), _paddings(torch.tensor([3]), torch.tensor([3]))
    ([0, 9], [])
    """
    if target.ndim < 2 or target.shape[-1] < 2:
        return []
    return [0] if int(labels[-1]) < 1 else [0, int(labels[-1])]


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, ignore_index=LEFT_OUT)


def _of_values(prediction: Tensor, target: Tensor, squashed: bool) -> Iterator[_Candidate]:
    if prediction.numel() != target.numel() or prediction.shape[:1] != target.shape[:1] or not target.ndim:
        return
    p, t = prediction.float().reshape(target.shape), target.float()
    terms = tuple(dict.fromkeys((t.numel(), len(t), t.numel() // len(t))))
    functions: list[tuple[Kind, Tensor]] = [
        ("squared error", nn.functional.mse_loss(p, t)),
        ("absolute error", nn.functional.l1_loss(p, t)),
        ("Huber loss", nn.functional.smooth_l1_loss(p, t)),
    ]
    for kind, value in functions:
        yield _Candidate(kind, prediction, target, float(value), terms)
    if bool(((t >= 0) & (t <= 1)).all()):
        inside = bool(((p >= 0) & (p <= 1)).all())
        if inside:
            value = nn.functional.binary_cross_entropy(p, t)
            yield _Candidate("binary cross entropy", prediction, target, float(value), terms)
        value = nn.functional.binary_cross_entropy_with_logits(p, t)
        twice: Twice = "sigmoid" if squashed else ""
        yield _Candidate("binary cross entropy", prediction, target, float(value), terms, twice)
        if not inside:
            value = nn.functional.binary_cross_entropy_with_logits(p.sigmoid(), t)
            yield _Candidate("binary cross entropy", prediction, target, float(value), terms, "sigmoid")


def other_values(tensor: Tensor) -> list[Tensor]:
    """Return tensors of other values: the same rows in another order, and nothing but zeros, or ones.

    >>> other_values(torch.tensor([1, 2, 3]))
    [tensor([3, 1, 2]), tensor([0, 0, 0])]
    """
    constant = torch.zeros_like(tensor) if bool((tensor != 0).any()) else torch.ones_like(tensor)
    rolled = tensor.roll(1, 0) if tensor.ndim else tensor
    return [constant] if torch.equal(rolled, tensor) else [rolled, constant]


def alike(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two answers are the same, up to what a device computes differently from call to call.

    >>> alike([torch.ones(2)], [torch.ones(2) + 1e-7]), alike([torch.ones(2)], [torch.zeros(2)])
    (True, False)
    """
    if [t.shape for t in left] != [t.shape for t in right]:
        return False
    pairs = [(a.float(), b.float()) for a, b in zip(left, right, strict=True) if a.numel()]
    scales = [float(a.abs().nan_to_num().amax()) for a, _ in pairs]
    return all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-6 * scale, equal_nan=True)
        for (a, b), scale in zip(pairs, scales, strict=True)
    )
