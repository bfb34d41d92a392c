"""The arguments of LRFinder: checked and frozen."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_tricks.errors import require_choice, require_count, require_flag, require_number
from lightning_tricks.lr_finder.suggest import RULES
from lightning_tricks.lr_finder.sweep import CANDIDATES, MODES, rates

OWNER = "LRFinder"


@dataclass(frozen=True)
class FinderSpec:
    """What a user asked for. The fields are the constructor arguments of ``LRFinder``, which documents them.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
    """

    min_lr: float
    max_lr: float
    num_steps: int
    suggestion: str
    probe: bool
    refine: bool
    apply: bool
    on_low_confidence: str
    mode: str

    def __post_init__(self) -> None:
        low = require_number(OWNER, "min_lr", self.min_lr, remedy="Use e.g. 1e-7")
        high = require_number(OWNER, "max_lr", self.max_lr, low=low, remedy="Use e.g. 10.0")
        vars(self).update(min_lr=low, max_lr=high)  # as floats; frozen from here on
        require_count(OWNER, "num_steps", self.num_steps, low=10, remedy="Use e.g. 100")
        require_choice(OWNER, "suggestion", self.suggestion, RULES)
        for name in ("probe", "refine", "apply"):
            require_flag(OWNER, name, getattr(self, name))
        require_choice(OWNER, "on_low_confidence", self.on_low_confidence, ("keep", "raise"))
        require_choice(OWNER, "mode", self.mode, MODES)

    @property
    def lrs(self) -> list[float]:
        """The rates that are tried."""
        return rates(self.min_lr, self.max_lr, self.num_steps, self.mode)

    @property
    def smoothing(self) -> float:
        """The factor of the moving average of the losses: those of ever new batches are noisier than of a fixed one."""
        return 0.8 if self.probe else 0.9

    @property
    def most_updates(self) -> int:
        """The updates of the sweep and of a bake-off of the usual size, for a progress bar."""
        return self.num_steps * (1 + (len(CANDIDATES) if self.refine else 0))
