"""Which module's output are the predictions, in a training step that returns nothing but a loss. torch only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.collapse import sums
from lightning_tricks.collapse.prediction_rows import are_next_tokens, refused, rows_of
from lightning_tricks.errors import listed
from lightning_tricks.numerics.shards import local

_CLOSE = 1e-3  # relative: the loss may have been computed in 16 bit


class OutputSearch:
    """Notes what every module returns in watched batches, until the predictions among it are known.

    Args:
        modules: name -> module, those that hooks can reach.
        watch: calls a function with each output of a module, and returns the handle of the hook.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], watch: Callable[[nn.Module, Callable[[Any], None]], Any]
    ) -> None:
        self._modules, self._watch = modules, watch
        self._seen: dict[str, Tensor] = {}
        self._handles = [watch(module, partial(self._note, name)) for name, module in modules.items() if name]

    def _note(self, name: str, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        if tensor is not None:
            self._seen[name] = tensor

    def take(self) -> dict[str, Tensor]:
        """Return what was noted, one name for each tensor: a module that only passes an output on is left out."""
        first: dict[tuple[int, torch.Size], str] = {}
        for name, tensor in self._seen.items():
            first.setdefault((tensor.data_ptr(), tensor.shape), name)
        found = {name: self._seen[name] for name in first.values()}
        self._seen = {}
        return found

    def find(self, argument: str, targets: Sequence[Tensor], loss: Tensor | None) -> tuple[str, Tensor]:
        """Return the module whose output are the predictions, and that output. Reads losses on the host.

        Args:
            argument: what the user gave as ``output``, for the message.

        Raises:
            TrickError: no output explains the loss; the message has the candidates.
        """
        seen = self.take()
        shifted = next((n for n, output in seen.items() if are_next_tokens(output, list(targets), loss)), None)
        if shifted is not None:
            return shifted, seen[shifted]
        fits = candidates(seen, targets)
        name = chosen(fits, loss)
        if name is None:
            rule = "training_step returns no such key, and no module's output explains the loss alone"
            raise refused("output", argument, rule, f"Pass the one that is meant: {told(fits, seen)}")
        return name, seen[name]

    def watch(self, name: str, seen: Callable[[Any], None]) -> None:
        """Call ``seen`` with each output of a module from now on, also when the search is over."""
        self._watch(self._modules[name], seen)

    def end(self) -> None:
        """Remove the hooks of the search."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._seen = [], {}


def candidates(seen: Mapping[str, Tensor], targets: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the outputs that fit the targets in shape and in number of classes, as rows.

    Example:
        >>> seen = {"body": torch.zeros(4, 2, 8), "head": torch.zeros(4, 3), "small": torch.zeros(4, 2)}
        >>> list(candidates(seen, [torch.tensor([0, 1, 2, 1])]))
        ['head']
    """
    found = {}
    for name, output in seen.items():
        fit = rows_of(output, list(targets))
        if fit is None:
            continue
        rows = fit[0]
        labels = rows.get("target")
        # (class numbers beyond the outputs belong to another head)
        if labels is None or (labels.numel() and int(labels.max()) < rows["logits"].shape[1]):
            found[name] = rows
    return found


def chosen(fits: Mapping[str, Mapping[str, Tensor]], loss: Tensor | None) -> str | None:
    """Return the module whose output explains the loss, or the only one that fits class numbers; None where none does.

    Example:
        >>> rows = {"logits": torch.tensor([[2.0, 0.0]]), "target": torch.tensor([0])}
        >>> wide = {"logits": torch.zeros(1, 9), "target": torch.tensor([0])}
        >>> chosen({"body": wide, "head": rows}, torch.tensor(0.1269))
        'head'
    """
    if loss is not None and bool(torch.isfinite(loss).all()):
        value = float(loss)
        off = {name: min(abs(float(known) - value) for known in _losses(rows)) for name, rows in fits.items()}
        best = min(off, key=off.__getitem__, default=None)
        if best is not None and off[best] <= _CLOSE * max(abs(value), _CLOSE):
            return best
    plain = [name for name, rows in fits.items() if "target" in rows]
    return plain[0] if len(plain) == 1 and len(fits) == 1 else None


def loss_of(outputs: Any) -> Tensor | None:
    """Return the loss in what ``training_step`` returned; None where there is none."""
    found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return local(found).detach() if isinstance(found, Tensor) and found.numel() == 1 else None


def explains(rows: Mapping[str, Tensor], loss: Tensor | None) -> Tensor:
    """Whether a usual loss of outputs beside values is that of the step, bool 0-d; False for other rows. No host read.

    Else outputs may be in units that differ by sample, as of windows that are standardised each by itself, or of
    differences from the last value.
    """
    if "values" not in rows or loss is None or rows["output"].shape != rows["values"].shape:
        return torch.zeros((), dtype=torch.bool, device=next(iter(rows.values())).device)
    squares, *others = _losses_of_numbers(rows)
    known = torch.stack([squares, squares / 2, squares.sqrt(), *others])
    number, width = rows["values"].shape
    known = torch.cat([known * factor for factor in (1, number, width, number * width)])
    return ((known - loss).abs() <= _CLOSE * loss.abs().clamp(min=_CLOSE)).any()


def told(fits: Mapping[str, Mapping[str, Tensor]], seen: Mapping[str, Tensor]) -> str:
    """Return the modules that a user may name, with the shapes of their outputs.

    >>> told({"head": {}}, {"body": torch.zeros(4, 8), "head": torch.zeros(4, 3)})
    "output='head' [4, 3]"
    """
    names = [name for name in seen if name in fits] or list(seen)
    # (the last ones first: predictions come out at the end)
    return listed([f"output={name!r} {list(seen[name].shape)}" for name in reversed(names)], 5)


def _losses(rows: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the usual losses of an output and its target."""
    if "target" in rows:
        logits, target = rows["logits"].float(), rows["target"]
        target = target.masked_fill(target < 0, -100)
        # (a module may return log-probabilities)
        return [F.cross_entropy(logits, target), F.nll_loss(logits, target)]
    output, values = _numbers(rows)
    if bool(((values >= 0) & (values <= 1)).all()):
        return [*_losses_of_numbers(rows), F.binary_cross_entropy_with_logits(output, values)]
    return _losses_of_numbers(rows)


def _losses_of_numbers(rows: Mapping[str, Tensor]) -> list[Tensor]:
    output, values = _numbers(rows)
    return [F.mse_loss(output, values), F.l1_loss(output, values), F.smooth_l1_loss(output, values)]


def _numbers(rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return outputs and values of one shape: of several quantiles, or members of an ensemble, each with the value."""
    output = rows["output"].float()
    return output, rows["values"].float().expand_as(output)
