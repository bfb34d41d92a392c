"""Which tensors of a training step are predictions and targets, and both as rows. torch only.

Rows are ``{"logits": [n, K], "target": [n]}`` for class numbers, and ``{"output": [n, D], "values": [n, D]}`` for what
has the size of the output (``collapse.pairs``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, where
from torch.nn.functional import cross_entropy

from lightning_tricks.collapse import pairs
from lightning_tricks.errors import TrickError, message, nearest
from lightning_tricks.modules.labels import matched
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.trees import named_parts, tree_leaves

ANY_OUTPUT, ANY_TARGET = "logits", "target"
_LABELS = ("labels", "label", "targets", "y")  # keys of a batch that are meant by ``ANY_TARGET``
_VOID = 255  # the label of pixels that do not count, where there are not as many classes
_CLOSE = 2e-5  # relative: float32 sums differ by 1e-6
_LEAST = 16  # rows within which targets are dealt out: of several batches, where they are smaller


def refused(argument: str, value: str, rule: str, remedy: str) -> TrickError:
    """Return the error for an argument of ``PredictionCollapse`` that names nothing of use."""
    return TrickError(message("PredictionCollapse", argument, value, rule, remedy))


def output_of(outputs: Any, name: str) -> Tensor | None:
    """Return the tensor of a name in what ``training_step`` returned; None where there is none."""
    found = outputs.get(name) if isinstance(outputs, Mapping) else None
    return local(found) if isinstance(found, Tensor) else None


def no_output(outputs: Any, name: str, modules: Iterable[str]) -> TrickError:
    """Return the error that says that an output is neither a key of what was returned nor a module."""
    keys = [k for k, v in outputs.items() if isinstance(v, Tensor)] if isinstance(outputs, Mapping) else []
    there = [n for n in modules if n]
    near = nearest(name, [n for n in (*keys, *there) if n != name])
    what = "does not call the module of that name" if name in there else "there is no such module"
    rule = f"training_step returns no such key, and {what}"
    remedy = f"The nearest name is {near!r}" if near else "Return {'loss': loss, 'logits': logits}"
    return refused("output", name, rule, remedy)


def targets_of(batch: Any, outputs: Any, name: str) -> list[Tensor]:
    """Return the tensors that may be the labels, the likeliest first.

    Args:
        name: a key of either; with ``"target"`` also the only one of the usual keys, as ``"labels"``, or of a batch
            without keys its tensors but the first: class numbers before floats, later ones before earlier ones.

    Raises:
        TrickError: there is no such key.
    """
    places = [parts for place in (outputs, batch) if (parts := named_parts(place)) is not None]
    for place in places:
        if isinstance(place.get(name), Tensor):
            return [local(place[name])]
    named = named_parts(batch)
    if name == ANY_TARGET and named is not None:
        labels = [named[key] for key in _LABELS if isinstance(named.get(key), Tensor)]
        if len(labels) == 1:
            return [local(labels[0])]
    if name != ANY_TARGET or isinstance(batch, Mapping):
        keys = [key for place in places for key in place if isinstance(key, str)]
        near = nearest(name, keys) or "target"
        rule = "neither the batch nor what training_step returns has such a key"
        remedy = f"The nearest name is {near!r}" if near in keys else "Return {'loss': ..., 'target': ...}"
        raise refused("target", name, rule, remedy)
    tensors = [local(t) for t in tree_leaves(batch) if isinstance(t, Tensor)]
    whole = [t for t in tensors if not t.is_floating_point()]
    return [*reversed(whole), *(t for t in reversed(tensors[1:]) if t.is_floating_point())]


def rearranged(targets: list[Tensor], batch: Any, compared: list[Tensor]) -> list[Tensor]:
    """Return targets as the loss has compared them, where a step has flipped or exchanged those of its batch.

    Of the same shape, and within the values of the batch. What a step returns stays as it is, and so does what the loss
    has compared as it is, as the labels of one of two mixed images. No host read.

    Args:
        targets: as ``targets_of`` returns them.
        batch: of the training step.
        compared: targets of the loss functions in it.

    >>> import torch
    >>> labels = torch.tensor([0, 1, 2])
    >>> rearranged([labels], (labels,), [labels.flip(0)]), rearranged([labels], (labels,), [labels + 5])
    ([tensor([2, 1, 0])], [tensor([0, 1, 2])])
    """
    given = {local(t).data_ptr() for t in tree_leaves(batch) if isinstance(t, Tensor)}
    return [_as_compared(t, compared) if t.data_ptr() in given and t.numel() else t for t in targets]


def _as_compared(target: Tensor, compared: list[Tensor]) -> Tensor:
    alike = [t for t in compared if t.shape == target.shape and t.dtype == target.dtype and t.device == target.device]
    # (of several, as those of two mixed images, none stands for the others)
    if len(alike) != 1 or alike[0].data_ptr() == target.data_ptr():
        return target
    least, most = alike[0].aminmax()
    lower, upper = target.aminmax()
    # (labels that are all the same are not those of the batch in another order)
    return where((least >= lower) & (most <= upper) & (least < most), alike[0], target)


def rows_of(output: Tensor, targets: list[Tensor]) -> tuple[dict[str, Tensor], bool] | None:
    """Return output and target as rows, and whether targets are of pixels; None where no target fits.

    Class numbers come before values of the same size, and those before quantiles.

    >>> import torch
    >>> rows, dense = rows_of(torch.zeros(2, 3, 4, 4), [torch.zeros(2, 4, 4).long()])
    >>> {name: tuple(t.shape) for name, t in rows.items()}, dense
    ({'logits': (32, 3), 'target': (32,)}, True)
    >>> rows, _ = rows_of(torch.zeros(8, 2), [torch.zeros(8, 2)])
    >>> list(rows)
    ['output', 'values']
    """
    whole = [_without_first(t, output) for t in targets if not t.is_floating_point()]
    for target in whole:
        found = None if pairs.paired(output, target) is not None else matched(output, target)
        if found is not None:
            logits, label = found
            void = logits.shape[1] <= _VOID
            label = label.masked_fill(label == _VOID, -100) if void else label
            return {"logits": logits, "target": label}, target.ndim > 2
    values = [t for t in targets if t.is_floating_point()]
    tried = [(t, False) for t in (*values, *whole)] + [(t, True) for t in values]
    for target, quantiles in tried:
        pair = pairs.paired(output, target, quantiles=quantiles)
        if pair is not None:
            return dict(zip(("output", "values"), pair, strict=True)), False
    return None


def _without_first(tokens: Tensor, output: Tensor) -> Tensor:
    """Return tokens ``[n, T + 1]`` beside logits ``[n, T, K]`` without the first, which nothing predicts."""
    one_more = output.ndim == 3 and tokens.ndim == 2 and tokens.shape[1] == output.shape[1] + 1
    return tokens[:, 1:] if one_more and len(tokens) == len(output) else tokens


def are_next_tokens(output: Tensor, targets: list[Tensor], loss: Tensor | None) -> bool:
    """Whether a loss is that of each next token: the labels are the tokens that the model was given.

    A host read.

    Args:
        output: logits ``[n, T, K]``.
    """
    for tokens in [t for t in targets if not t.is_floating_point() and t.shape == output.shape[:2]]:
        if output.ndim != 3 or tokens.shape[1] < 3 or loss is None or loss.numel() != 1:
            continue
        if int(tokens.max()) >= output.shape[2]:
            continue
        pairs_of = {True: (output[:, :-1], tokens[:, 1:]), False: (output, tokens)}
        shifted, plain = (abs(_entropy(*pairs_of[following]) - float(loss.detach())) for following in (True, False))
        # (before training all labels cost nearly the same)
        return shifted <= _CLOSE * abs(float(loss.detach())) and shifted < 0.1 * plain
    return False


def _entropy(logits: Tensor, labels: Tensor) -> float:
    rows, label = logits.detach().flatten(0, 1).float(), labels.flatten().long()
    return float(cross_entropy(rows, label.masked_fill(label < 0, -100)))


class Parts:
    """Numbers the parts of gathered rows within which targets are dealt out: batches, or several small ones together.

    >>> parts = Parts()
    >>> [parts.begin(count, first=i == 0) for i, count in enumerate((10, 10, 20, 4))]
    [0, 0, 1, 2]
    """

    def __init__(self, part: int = 0, inside: int = 0) -> None:
        self.part, self.inside = part, inside

    def begin(self, count: int, *, first: bool) -> int:
        """Return the number of the part of a batch.

        Args:
            first: nothing has been gathered before it.
        """
        if first:
            self.part = self.inside = 0
        elif self.inside >= _LEAST:
            self.part, self.inside = self.part + 1, 0
        self.inside += count
        return self.part

    @classmethod
    def of(cls, numbers: Tensor) -> Parts:
        """Return the state after rows of these parts, ``[n]``; a host read."""
        part = int(numbers.max())
        return cls(part, int((numbers == part).sum()))
