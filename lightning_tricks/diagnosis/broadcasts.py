"""Two numbers for each sample that meet as ``[n, 1]`` and ``[n]``: the loss is of all pairs, which nobody meant.

``loss_arguments.py`` looks at what loss functions are given. A step may also multiply or subtract by hand, as policy
gradients do with rewards. Pairs are often meant: in distances, contrasts and rankings. They are not meant where all of
them are only added up, no numbers meet themselves, and one of two things holds:

- what is added up is their product: it is that of two sums, so it does not matter which numbers belong together;
- the column came out of a layer or the batch as it is, or is a slice of what did, as a mean beside a variance; and the
  row is not a column of an output that was squeezed for this purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.loss_arguments import SHAPES
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.numerics.trees import tree_map

_FEWEST, _MOST = 3, 4096  # values of each: the pairs are kept while the step runs
_SAME = frozenset({"clone", "contiguous", "detach", "double", "float", "to"})  # the numbers as they were
_PRODUCTS = frozenset({"div", "mul", "multiply", "rmul", "true_divide", "truediv"})
_ELEMENTWISE = _SAME | _PRODUCTS | {
    *("abs", "absolute", "add", "clamp", "clamp_max", "clamp_min", "clip", "cos", "dropout", "elu", "exp", "expm1"),
    *("gelu", "leaky_relu", "log", "log1p", "logsigmoid", "max", "maximum", "min", "minimum", "neg", "negative", "pow"),
    *("radd", "relu", "rpow", "rsub", "rtruediv", "sigmoid", "silu", "sin", "softplus", "sqrt", "square", "sub"),
    *("subtract", "tanh", "binary_cross_entropy", "binary_cross_entropy_with_logits", "huber_loss", "l1_loss"),
    *("mse_loss", "smooth_l1_loss"),
}  # fmt: skip
_LOSSES = frozenset(name for name in _ELEMENTWISE if "loss" in name or "entropy" in name)
_COLUMNS = frozenset({"embedding", "gather", "linear"})  # layers and lookups that give [n, 1] unless that is changed
_SUMS = frozenset({"mean", "nanmean", "sum"})
_LINEAR = _SAME | {"add", "neg", "negative", "radd", "rsub", "sub", "subtract"}
_PARTS = frozenset({"chunk", "getitem", "narrow", "split", "tensor_split"})  # keep one column of several
_SQUEEZES = frozenset({"flatten", "getitem", "ravel", "reshape", "select", "squeeze", "view"})


@dataclass(frozen=True)
class Meeting:
    """A column and a row of numbers that met.

    Args:
        name: of the function.
        first, second: the shapes, in the order in which they were given.
        natural: whether the column is as a layer or the batch made it, and the row was not squeezed.
    """

    name: str
    first: tuple[int, ...]
    second: tuple[int, ...]
    natural: bool

    @property
    def size(self) -> int:
        """How many numbers there are on each side."""
        return self.first[0]


class Meetings(TorchFunctionMode):
    """Follows columns and the pairs that are made of them while it is entered.

    Args:
        batch: whose columns are as they are.

    Example:
        >>> import torch
        >>> rewards, likelihoods = torch.randn(8, 1), torch.randn(8)
        >>> with Meetings(rewards) as meetings:
        ...     loss = -(likelihoods * rewards).mean()
        >>> meetings.of(loss).size
        8
        >>> with Meetings(rewards) as meetings:
        ...     loss = -(likelihoods * rewards.squeeze(1)).mean()
        >>> meetings.of(loss) is None
        True
    """

    def __init__(self, batch: Any) -> None:
        super().__init__()
        # (tensors are kept beside what is known of them, so that no other one gets their ``id``)
        self._natural = {id(t): t for t in tensors_of(batch) if _is_column(t)}
        self._labels = dict(self._natural)  # columns of the batch, and copies of them
        self._squeezed: dict[int, Tensor] = {}
        self._pairs: dict[int, tuple[Tensor, Meeting, bool]] = {}  # and whether they are products still
        self._rows: dict[int, tuple[Tensor, Meeting]] = {}  # sums along one axis of them
        self._sums: dict[int, tuple[Tensor, Meeting]] = {}
        self._meant = False  # numbers meet themselves: the step is about pairs, as a kernel is

    def of(self, loss: Tensor | None) -> Meeting | None:
        """Return the meeting whose pairs were added up in this loss; None for none that was not meant."""
        return self._sums[id(loss)][1] if id(loss) in self._sums and not self._meant else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note what becomes of what is followed."""
        made = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        given = [t for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)]
        for result in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(result, Tensor) and given:
                # (``x[:, 0, None]`` says that a column is meant, ``x[:, :1]`` only keeps what there was)
                asked_for = name == "getitem" and _inserts_axis(args[1])
                self._follow(name, given, result, part=name in _PARTS and not asked_for)
        return made

    def _follow(self, name: str, given: list[Tensor], made: Tensor, *, part: bool) -> None:
        self._meant = self._meant or _pairs_itself(name, given, made)
        if made.ndim == 0:
            self._add_up(name, given, made)
        elif made.ndim == 1 and any(id(t) in self._pairs or id(t) in self._rows for t in given):
            self._add_along_axis(name, given, made)
        elif _is_column(made):
            kept = name in _ELEMENTWISE or name == "broadcast_tensors"
            cut = part and given[0].ndim == 2 and not _is_column(given[0])
            if name in _COLUMNS or cut or (kept and any(id(t) in self._natural for t in given)):
                self._natural[id(made)] = made
            if name in _SAME and id(given[0]) in self._labels:
                self._labels[id(made)] = made
        elif made.ndim == 1 and name in _SQUEEZES and _is_column(given[0]) and len(given[0]) == len(made):
            # (a label of the batch is squeezed to fit an output, and the output forgotten)
            if id(given[0]) not in self._labels:
                self._squeezed[id(made)] = made
        elif made.ndim == 2 and made.shape[0] == made.shape[1] and name in _ELEMENTWISE:
            self._pair(name, given, made)

    def _pair(self, name: str, given: list[Tensor], made: Tensor) -> None:
        size = len(made)
        known = [self._pairs[id(t)] for t in given if id(t) in self._pairs]
        others = [t for t in given if id(t) not in self._pairs and t.numel() > 1]
        # (whoever combines pairs with a matrix of that size, as a mask, means pairs)
        if not _FEWEST <= size <= _MOST or any(t.shape not in {(size,), (size, 1)} for t in others):
            return
        if known:
            _, meeting, product = known[0]
            scaled = len(known) == 1 and not others and name in _PRODUCTS | _SAME | {"neg", "negative"}
            self._pairs[id(made)] = (made, meeting, product and scaled)
            return
        columns, rows = ([t for t in others if t.ndim == n] for n in (2, 1))
        # (numbers that are all the same do not care whom they meet)
        if not columns or not rows or not all(_varies(t) for t in others):
            return
        one, two = columns[0], rows[0]
        if _is_same(one, two):
            return
        natural = id(one) in self._natural and id(two) not in self._squeezed
        first, second = (tuple(t.shape) for t in others[:2])
        self._pairs[id(made)] = (made, Meeting(name, first, second, natural), name in _PRODUCTS)

    def _add_along_axis(self, name: str, given: list[Tensor], made: Tensor) -> None:
        """Follow sums of the pairs of each row, as of a log-likelihood, as long as nothing but sums is made of them."""
        rows = [self._rows[id(t)][1] for t in given if id(t) in self._rows]
        pairs = [p for t in given if (p := self._pairs.get(id(t))) is not None and _counts(*p[1:])]
        others = [t for t in given if id(t) not in self._rows and t.numel() > 1]
        if pairs and name in _SUMS:
            self._rows[id(made)] = (made, pairs[0][1])
        elif rows and (name in _LINEAR or (name in _PRODUCTS and len(rows) == 1 and not others)):
            self._rows[id(made)] = (made, rows[0])

    def _add_up(self, name: str, given: list[Tensor], made: Tensor) -> None:
        for t in given:
            pairs, reduced = self._pairs.get(id(t)), self._sums.get(id(t))
            rows = self._rows.get(id(t)) if name in _SUMS else None
            if reduced is not None or rows is not None:
                self._sums[id(made)] = (made, (reduced or rows)[1])  # type: ignore[index]
            elif pairs is not None and (name in _SUMS or (name in _LOSSES and len(given) > 1)):
                _, meeting, product = pairs
                if _counts(meeting, product and name not in _LOSSES):
                    self._sums[id(made)] = (made, meeting)


def meetings(exam: Examination) -> list[Check]:
    """Look for pairs that were not meant in the step, and whether a batch of fewer samples has fewer of them."""
    size = max((len(t) for t in tensors_of(exam.batch) if t.ndim), default=0)
    if exam.compiled:
        return []
    found = _met(exam, exam.batch)
    if not exam.dry_run.steps.anywhere(found is not None):
        return []
    # (a list that is as long as the batch by chance keeps its length)
    fewer = _met(exam, tree_map(lambda t: t[:-1] if t.ndim and len(t) == size else t, exam.batch))
    if found is None or fewer is None or fewer.size * size != found.size * (size - 1):
        return []
    pairs = (found.size, found.size)
    seen = f"{found.name} of {found.first} and {found.second} makes {pairs} pairs, and the loss is of their sum"
    return [Check(SHAPES, False, seen, "bring both to one shape: squeeze(-1), or unsqueeze(-1)")]


def _met(exam: Examination, batch: Any) -> Meeting | None:
    exam.dry_run.restart()
    with Meetings(batch) as followed, exam.dry_run.looking():
        loss = loss_of(exam.dry_run.output(batch))
    met: Meeting | None = followed.of(loss)
    return met


def _pairs_itself(name: str, given: Sequence[Tensor], made: Tensor) -> bool:
    """Whether numbers of samples are combined with themselves, each with each.

    >>> import torch
    >>> z = torch.randn(5, 1)
    >>> _pairs_itself("sub", [z, z.T], z - z.T), _pairs_itself("pdist", [z], torch.pdist(z))
    (True, True)
    >>> _pairs_itself("sub", [z, torch.randn(5)], z - torch.randn(5)), _pairs_itself("mul", [z, z], z * z)
    (False, False)
    """
    size = given[0].numel()
    if (
        size < _FEWEST
        or not made.is_floating_point()
        or max(given[0].shape) != size
        or made.numel() not in (size * size, size * (size - 1) // 2)
    ):
        return False
    return name == "pdist" or (len(given) > 1 and given[1].numel() == size and _is_same(given[0], given[1]))


def _is_same(one: Tensor, two: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()


def _counts(meeting: Meeting, product: bool) -> bool:
    return product or meeting.natural


def _is_column(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.shape[1] == 1


def _inserts_axis(index: Any) -> bool:
    return any(part is None for part in (index if isinstance(index, tuple) else (index,)))


def _varies(tensor: Tensor) -> bool:
    return bool((tensor != tensor.flatten()[0]).any())
