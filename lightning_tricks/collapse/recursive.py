"""Training on one's own output, generation by generation: what is lost, and a data set that keeps the real data in."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_tricks.collapse.representation import rows
from lightning_tricks.errors import message, require_choice, require_number

_OWNER = "MixedGenerations"


def variance_ratio(generated: Tensor, real: Tensor) -> Tensor:
    """Return the total variance of generated samples over that of real ones, 0-d.

    Under replacement, with n samples per generation, ``(1 - 1/n)^t`` is expected for a Gaussian after t generations.

    Reference: Shumailov et al., 2024, Nature 631; Alemohammad et al., 2023, arXiv:2307.01850.

    >>> variance_ratio(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
    tensor(0.2500, dtype=torch.float64)
    """
    one, two = (rows(x).var(dim=0, unbiased=False).sum() for x in (generated, real))
    return one / two


def tail_mass(generated: Tensor, real: Tensor, share: float = 0.05) -> Tensor:
    """Return the share of generated values beyond the real ones' quantiles, averaged over dimensions, 0-d.

    ``2 * share`` for equal distributions; it falls first when tails are lost.

    Args:
        generated: ``[m, d]``.
        real: ``[n, d]``.
        share: in each tail, in (0, 0.5).

    >>> tail_mass(torch.zeros(4, 1), torch.linspace(-1, 1, 101)[:, None])
    tensor(0., dtype=torch.float64)
    """
    reference = rows(real)
    low, high = (torch.quantile(reference, q, dim=0) for q in (share, 1 - share))
    values = rows(generated)
    return ((values < low) | (values > high)).double().mean()


def loss_ratio(loss: float, best: float, first: float) -> float:
    """Return how far a loss is above its best, as a ratio: of the best, or of what was learnt where that is more.

    A loss may end near 0, or be negative, as that of a flow or a Gaussian likelihood: it has no scale of its own then.

    >>> loss_ratio(2.2, 2.0, 3.4), loss_ratio(-4.0, -5.0, 5.0)
    (1.1, 1.1)
    """
    scale = max(abs(best), first - best)
    return 1.0 + (loss - best) / scale if scale > 0 else 1.0


class MixedGenerations(Dataset[Any]):
    """Real and generated samples in one data set: the remedy against collapse under recursive training.

    Training on the last generation alone loses tails and then everything; keeping the real data in the mix bounds the
    error.

    Args:
        real: a data set with a length.
        generated: samples of all generations so far, or of the last one, with a length.
        mode: ``"accumulate"``: all of both. ``"replace"``: generated ones only, which is what collapses.
            ``"fraction"``: as many of both as give the wanted share without taking a sample twice, interleaved.
        fraction: share of real samples with ``mode="fraction"``, in (0, 1).

    Raises:
        TypeError: a data set has no length.
        ValueError: ``mode`` or ``fraction`` is out of range, or a data set that is needed is empty.

    Example:
        >>> mixed = MixedGenerations([0, 1, 2], ["a", "b", "c"], mode="fraction", fraction=0.5)
        >>> list(mixed)
        ['a', 0, 'b', 1, 'c', 2]

    Reference: Gerstgrasser et al., "Is Model Collapse Inevitable?", 2024, arXiv:2404.01413.
    """

    def __init__(
        self,
        real: Dataset[Any],
        generated: Dataset[Any],
        mode: Literal["accumulate", "replace", "fraction"] = "accumulate",
        fraction: float = 0.5,
    ) -> None:
        self.mode = require_choice(_OWNER, "mode", mode, ("accumulate", "replace", "fraction"))
        self.fraction = require_number(_OWNER, "fraction", fraction, high=1.0, remedy="Use e.g. 0.5")
        self.real, self.generated = real, generated
        sizes = [_length(name, data) for name, data in (("real", real), ("generated", generated))]
        needed = {"accumulate": (), "replace": ("generated",), "fraction": ("real", "generated")}[self.mode]
        for name, size in zip(("real", "generated"), sizes, strict=True):
            if size == 0 and name in needed:
                rule = f"{name} must not be empty with mode={self.mode!r}"
                raise ValueError(
                    message(_OWNER, name, "no samples", rule, "Use mode='accumulate', or generate samples")
                )
        self._sizes = sizes

    def __len__(self) -> int:
        real, generated = self._sizes
        if self.mode == "accumulate":
            return real + generated
        if self.mode == "replace":
            return generated
        return max(1, min(int(real / self.fraction), int(generated / (1 - self.fraction))))

    @property
    def real_share(self) -> float:
        """Share of real samples in the mix."""
        return sum(self._is_real(i) for i in range(len(self))) / max(1, len(self))

    def _is_real(self, index: int) -> bool:
        if self.mode == "fraction":
            return self._reals_before(index + 1) > self._reals_before(index)
        return self.mode == "accumulate" and index < self._sizes[0]

    def _reals_before(self, index: int) -> int:
        # (1e-9: 0.29 * 100 is a little less than 29)
        return min(self._sizes[0], int(index * self.fraction + 1e-9))

    def __getitem__(self, index: int) -> Any:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"{_OWNER}: index {index} is out of range for {size} samples.")
        index %= size
        if self.mode != "fraction":
            real = self._sizes[0] if self.mode == "accumulate" else 0
            return self.real[index] if index < real else self.generated[index - real]
        before = self._reals_before(index)
        return self.real[before] if self._is_real(index) else self.generated[index - before]


def _length(name: str, data: Any) -> int:
    if isinstance(data, (str, bytes)) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        rule = f"{name} must have a length and take an index"
        raise TypeError(message(_OWNER, name, type(data).__name__, rule, "Use a map-style data set"))
    return len(data)
