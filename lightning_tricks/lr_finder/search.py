"""The sweep over learning rates and the bake-off: dry runs of training, whose losses become a ``Result``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.errors import NonFiniteError, require_choice, require_count, require_flag, require_number
from lightning_tricks.lr_finder.base_rates import use_rate
from lightning_tricks.lr_finder.result import Result, judged_result
from lightning_tricks.lr_finder.suggest import RULES
from lightning_tricks.lr_finder.sweep import CANDIDATES, MODES, candidates, diverged, rates, smoothed


def find_rate(spec: FinderSpec, dry_run: DryRun, base: Sequence[float], advance: Callable[[], None]) -> Result:
    """Return what a sweep finds, and with ``refine`` the bake-off after it.

    Args:
        base: the rates of the groups, whose ratios are kept.
    """
    result = swept(spec, dry_run, base, advance)
    if not (spec.refine and result.suggestion and result.may_be_refined):
        return result
    bake_off: dict[float, float] = {}
    for lr in candidates(result.suggestion, None if result.confident else result.lrs[-1]):
        dry_run.restart()  # from the same state on the same data
        use_rate(dry_run.steps.optimizer, lr, base)
        bake_off[lr] = loss_after_training(dry_run, spec.num_steps, spec.probe, advance)
    return result.refined(bake_off)


def swept(spec: FinderSpec, dry_run: DryRun, base: Sequence[float], advance: Callable[[], None]) -> Result:
    """Return what updates with rising rates give: one update per rate, until the loss diverges."""
    first = dry_run.probe() if spec.probe else None
    lrs: list[float] = []
    losses: list[float] = []
    ended = False
    for lr in spec.lrs:
        use_rate(dry_run.steps.optimizer, lr, base)
        loss, broken = one_update(dry_run, spec.probe, begun=bool(lrs))
        advance()
        if first is None:  # without a probe, the loss of the first batch was measured before its update
            first = loss
        ended = broken or (loss is not None and not math.isfinite(loss))
        if ended:
            break
        if loss is None:  # training_step returned None: this rate was not tried
            continue
        lrs.append(lr)
        losses.append(loss)
        ended = diverged(first or 0.0, smoothed(losses, spec.smoothing))
        if ended:
            break
    return judged_result(spec.suggestion, lrs, losses, smoothed(losses, spec.smoothing), first, ended=ended)


def one_update(dry_run: DryRun, probe: bool, *, begun: bool) -> tuple[float | None, bool]:
    """Make one update; return its loss, and whether the run cannot go on with these weights or gradients.

    Args:
        probe: whether the loss is that of the fixed batch after the update.
        begun: whether an update before it had a loss; before that, an error is the user's.
    """
    try:
        loss = dry_run.update()
        return (dry_run.probe() if probe and loss is not None else loss), False
    except NonFiniteError:  # the run's GradientClip raises
        return None, True
    except Exception:  # a model may refuse to compute with NaN, as torch.distributions does
        if not begun or dry_run.steps.weights_finite():
            raise
        return None, True


def loss_after_training(dry_run: DryRun, num_steps: int, probe: bool, advance: Callable[[], None]) -> float:
    """Make ``num_steps`` updates; return the mean of the last ten losses, inf when the training diverged."""
    losses: list[float] = []
    for i in range(num_steps):
        loss, broken = one_update(dry_run, probe, begun=i > 0)
        advance()
        if broken or (loss is not None and not math.isfinite(loss)):
            return math.inf
        losses += [] if loss is None else [loss]
    return sum(losses[-10:]) / len(losses[-10:]) if losses else math.inf


OWNER = "LRFinder"


@dataclass(frozen=True)
class FinderSpec:
    """What a user asked for. The fields are the constructor arguments of ``LRFinder``, which documents them."""

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
