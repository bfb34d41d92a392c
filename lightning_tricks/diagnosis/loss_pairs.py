"""Which samples a loss brings together: triplets and pairs whose labels say the opposite.

The gradient of a row of an embedding by the inputs tells of which sample it is, however it was chosen in the step. Then
the labels of the batch, or that two rows are of one sample, say which of them belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.loss_calls import LossCall, LossCalls
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.step_calls import watched
from lightning_tricks.numerics.trees import tree_map

ROW = "labels follow from inputs"
_ASKED, _FEWEST = 8, 4  # rows of a loss that are asked for their samples

Sample = tuple[int, int]  # number of the tensor of the batch, and of the row in it


def pairs_of_losses(exam: Examination) -> list[Check]:
    """Find the samples of what triplet and pair losses are given, and compare them with the labels."""
    wanted = any(call.name in _READ for call in exam.first_calls())
    if exam.dry_run.steps.anywhere(not wanted):
        return []
    tensors = tensors_of(exam.batch)
    leaves = {i: t.detach().clone().requires_grad_() for i, t in enumerate(tensors) if t.is_floating_point() and t.ndim}
    own = {id(tensors[i]): leaf for i, leaf in leaves.items()}
    labels = [t.reshape(-1) for t in tensors if not t.is_floating_point() and t.ndim and t.numel() == len(t)]
    found = None
    try:
        calls = LossCalls(tracked=True)
        watched(exam, tree_map(lambda t: own.get(id(t), t), exam.batch), calls, gradient=True)
        for call in [c for c in calls.found if c.name in _READ]:
            found = found or _READ[call.name](call, leaves, labels)
    except RuntimeError:  # a step that writes to its inputs, or has no graph
        found = None
    if not exam.dry_run.steps.anywhere(found is not None):
        return []
    return [found or Check(ROW, False, "pairs are exchanged, on another process")]


def exchanged(
    anchors: Sequence[Sample], positives: Sequence[Sample], negatives: Sequence[Sample], labels: Sequence[Tensor]
) -> bool:
    """Whether each negative belongs to its anchor, and no positive does: by one label at least, and against none.

    Args:
        anchors: samples, of at least four triplets.
        positives: theirs.
        negatives: theirs.
        labels: whole numbers for each sample, ``[n]`` each.

    >>> anchors, same, other = [(0, i) for i in range(4)], [(0, 1), (0, 0), (0, 3), (0, 2)], [(0, 2), (0, 3)] * 2
    >>> label, other = [torch.tensor([0, 0, 1, 1])], [(0, 2), (0, 3), (0, 0), (0, 1)]
    >>> exchanged(anchors, other, same, label), exchanged(anchors, same, other, label)
    (True, False)
    """
    told = [_together(anchors, positives, by) for by in (None, *labels)]
    against = [_together(anchors, negatives, by) for by in (None, *labels)]
    if len(anchors) < _FEWEST or any(near is not None and all(near) for near in told):
        return False
    return any(
        near is not None and far is not None and not any(near) and all(far)
        for near, far in zip(told, against, strict=True)
    )


def reversed_pairs(
    ones: Sequence[Sample], others: Sequence[Sample], signs: Sequence[bool], labels: Sequence[Tensor]
) -> bool:
    """Whether pairs of one class have the sign of different ones and the other way round, by a label and against none.

    Args:
        ones: the first sample of each pair.
        others: the second one.
        signs: whether the loss takes the pair for one that belongs together.
        labels: whole numbers for each sample, ``[n]`` each.

    >>> ones, others, label = [(0, i) for i in range(4)], [(0, 1), (0, 0), (0, 0), (0, 1)], [torch.tensor([0, 0, 1, 1])]
    >>> reversed_pairs(ones, others, [False, False, True, True], label)
    True
    >>> reversed_pairs(ones, others, [True, True, False, False], label)
    False
    """
    if len(ones) < _FEWEST or all(signs) or not any(signs):
        return False
    told = [_together(ones, others, by) for by in (None, *labels)]
    told += [_together(ones, others, a, b) for a, b in product(labels, labels) if a is not b]
    known = [near for near in told if near is not None]
    if any(near == list(signs) for near in known):
        return False
    return any(near == [not sign for sign in signs] for near in known)


def _together(
    ones: Sequence[Sample], others: Sequence[Sample], label: Tensor | None, second: Tensor | None = None
) -> list[bool] | None:
    """Return whether samples have the same label, or are one; None where the label is not that of these samples."""
    if label is None:
        return [one == other for one, other in zip(ones, others, strict=True)]
    second = label if second is None else second
    # (a label of one tensor says nothing about the rows of another one, but for two labels of pairs)
    if (label is second) != all(one[0] == other[0] for one, other in zip(ones, others, strict=True)):
        return None
    if max(s[1] for s in ones) >= len(label) or max(s[1] for s in others) >= len(second):
        return None
    first, last = label.tolist(), second.tolist()
    return [first[one[1]] == last[other[1]] for one, other in zip(ones, others, strict=True)]


def _samples(rows: Sequence[Tensor], leaves: dict[int, Tensor]) -> list[list[Sample]]:
    """Return on which samples of the batch each of some rows depends."""
    found = []
    for row in rows:
        weights = torch.linspace(1.0, 2.0, row.numel(), device=row.device, dtype=row.dtype)
        slopes = torch.autograd.grad(
            (row.reshape(-1) * weights).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        samples: list[Sample] = []
        for number, slope in zip(leaves, slopes, strict=True):
            if slope is not None:
                at = (slope.reshape(len(slope), -1) != 0).any(1).nonzero().flatten()
                samples.extend((number, int(i)) for i in at)
        found.append(samples)
    return found


def _one_each(*found: Sequence[list[Sample]]) -> list[list[Sample]] | None:
    """Return the samples of rows that depend on one each; None where one does not, as behind a mean over the batch."""
    single = all(len(samples) == 1 for rows in found for samples in rows)
    return [[samples[0] for samples in rows] for rows in found] if single else None


def _triplets(call: LossCall, leaves: dict[int, Tensor], labels: Sequence[Tensor]) -> Check | None:
    negative = call.options["negative"]
    if not call.output.ndim == call.target.ndim == negative.ndim == 2:
        return None
    if not len(call.output) == len(call.target) == len(negative) or len(negative) < _FEWEST:
        return None
    if torch.equal(call.output, negative):
        return Check(ROW, False, f"the negative of {call.name} is the anchor itself", "give it another sample")
    chosen = range(0, len(negative), -(-len(negative) // _ASKED))
    found = _one_each(*[_samples([t[i] for i in chosen], leaves) for t in (call.output, call.target, negative)])
    if found is None or not exchanged(found[0], found[1], found[2], labels):
        return None
    seen = f"the negatives of {call.name} belong to their anchors, by sample or label, and the positives do not"
    return Check(ROW, False, seen, f"{call.name}(anchor, positive, negative)")


def _pairs(call: LossCall, leaves: dict[int, Tensor], labels: Sequence[Tensor]) -> Check | None:
    signs = call.target.reshape(-1) > 0
    distances = call.name == "hinge_embedding_loss"
    vectors = (call.output, call.options.get("input2", call.output))
    if any(v.ndim != 2 - distances or len(v) != len(signs) for v in vectors):
        return None
    chosen = [int(i) for sign in (True, False) for i in (signs == sign).nonzero().flatten()[: _ASKED // 2]]
    if distances:
        # (the distance of a sample to itself says nothing)
        both = {
            i: samples for i, samples in zip(chosen, _samples([call.output[i] for i in chosen], leaves), strict=True)
        }
        chosen = [i for i in chosen if len(both[i]) > 1]
        found = _one_each(*[[both[i][at::2] for i in chosen] for at in (0, 1)])
    else:
        found = _one_each(*[_samples([v[i] for i in chosen], leaves) for v in vectors])
    if found is None or not reversed_pairs(found[0], found[1], [bool(signs[i]) for i in chosen], labels):
        return None
    seen = f"{call.name} is given 1 for pairs of different labels and -1 for pairs of one"
    return Check(ROW, False, seen, "1 stands for pairs that belong together: 2 * same - 1")


_READ: dict[str, Callable[[Any, Any, Any], Check | None]] = {
    "cosine_embedding_loss": _pairs,
    "hinge_embedding_loss": _pairs,
    "triplet_margin_loss": _triplets,
    "triplet_margin_with_distance_loss": _triplets,
}
