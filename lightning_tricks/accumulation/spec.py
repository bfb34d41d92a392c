"""The arguments of GradientAccumulation: checked and frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_tricks.accumulation.weights import WEIGHTS
from lightning_tricks.accumulation.window import Target, Window, as_window
from lightning_tricks.errors import message, require_choice

OWNER = "GradientAccumulation"
# linear: Goyal et al., arXiv:1706.02677, for SGD; sqrt: Malladi et al., arXiv:2205.10287, for Adam
SCALINGS: dict[str, Callable[[float], float]] = {"none": lambda ratio: 1.0, "linear": float, "sqrt": math.sqrt}


@dataclass(frozen=True)
class AccumulationSpec:
    """What a user asked for: the constructor arguments of ``GradientAccumulation``, which documents them."""

    batches: int | dict[int, int]
    target_batch_size: int | None
    weight: str | Callable[..., Any]
    on_oom: str
    lr_scaling: str
    split_fn: Callable[..., Any] | None

    def __post_init__(self) -> None:
        window = self.window
        if not callable(self.weight):
            require_choice(OWNER, "weight", self.weight, WEIGHTS)
        require_choice(OWNER, "on_oom", self.on_oom, ("raise", "split"))
        require_choice(OWNER, "lr_scaling", self.lr_scaling, SCALINGS)
        if self.split_fn is not None and not self.splits:
            text = "split_fn is used with on_oom='split' only"
            raise ValueError(message(OWNER, "split_fn", self.split_fn, text, "Add on_oom='split', or leave it out"))
        if isinstance(window, Target) and self.weight == "equal":
            text = "a target size needs weights that are sizes"
            raise ValueError(message(OWNER, "weight", self.weight, text, "Use 'samples', 'tokens' or a function"))

    @property
    def window(self) -> Window:
        """When an accumulation window closes, before anybody asked for a longer one."""
        return as_window(self.batches, self.target_batch_size)

    @property
    def splits(self) -> bool:
        """Whether a batch that does not fit into memory is split."""
        return self.on_oom == "split"

    @property
    def scales_rate(self) -> bool:
        """Whether the learning rate follows the effective batch size."""
        return self.lr_scaling != "none"


def rate_factor(scaling: str, window: Window, planned: int, micro_size: float) -> float:
    """Return the factor on the learning rate: of the effective batch over one micro-batch of all processes.

    Args:
        scaling: ``"none"``, ``"linear"`` or ``"sqrt"``.
        micro_size: of one micro-batch; of a target size the exact ratio counts, not the number of micro-batches.

    >>> from lightning_tricks.accumulation.window import Fixed
    >>> rate_factor("sqrt", Fixed(4), 4, 8.0), rate_factor("linear", Target(20), 3, 8.0)
    (2.0, 2.5)
    """
    return SCALINGS[scaling](window.size / micro_size if isinstance(window, Target) else planned)


def stands_alone(spec: AccumulationSpec, fixed: int | None, world_size: int) -> bool:
    """Whether each micro-batch is an update by itself whose gradient is exact as it is: no factor has to be applied.

    Args:
        fixed: micro-batches in every window; None where their number varies.
        world_size: processes. With several, those with more samples have to count for more.

    >>> stands_alone(AccumulationSpec(1, None, "samples", "raise", "none", None), 1, world_size=1)
    True
    """
    # (the weight may be 0 where tokens are counted, or by a function of the user's: such a loss is left out)
    return fixed == 1 and world_size == 1 and not spec.splits and spec.weight in ("equal", "samples")


def current_configuration(saved: Mapping[str, Any], window: Window) -> dict[str, Any]:
    """Return the arguments in a checkpoint under today's names, so that they can be compared with those of a run.

    The first checkpoints hold the window in place of ``batches`` and ``target_batch_size``: one that is still the same
    says nothing, another one is shown as ``batches``.

    >>> from lightning_tricks.accumulation.window import Fixed
    >>> current_configuration({"window": "Fixed(batches=4)", "on_oom": "raise"}, Fixed(4))
    {'on_oom': 'raise'}
    """
    found = {name: value for name, value in saved.items() if name != "window"}
    former = saved.get("window")
    return found if former is None or former == repr(window) else {"batches": former, **found}
