"""When a loss scale has failed: bounds, and how many updates in a row may be skipped. Frozen rules, no Lightning.

A skipped update is not a fault: a GradScaler finds its scale by overflowing now and then. Endless skips are one: torch
halves the scale forever (after 150 skips it is 0.0), trains nothing, and raises no error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_tricks.errors import listed, message, require_choice, require_count, require_number
from lightning_tricks.numerics.state import State

_OWNER = "LossScaleGuard"
_ON_FAILURE = ("raise", "warn", "bf16", "fp32")


@dataclass(frozen=True)
class ScalePolicy:
    """Bounds of the loss scale, the number of consecutive skips beyond which a run has failed, and what happens then.

    Example:
        >>> policy = ScalePolicy(max_consecutive_skips=2)
        >>> state = policy.init()
        >>> for skipped in (True, False, True, True, True):
        ...     state = policy.update(skipped, state)
        >>> state["consecutive"], state["skipped"], policy.failed(state["consecutive"])
        (3, 4, True)
    """

    min_scale: float = 1.0
    max_scale: float | None = None
    max_consecutive_skips: int = 20
    on_failure: str = "raise"

    def __post_init__(self) -> None:
        require_number(_OWNER, "min_scale", self.min_scale, remedy="Use e.g. 1.0")
        if self.max_scale is not None:
            require_number(_OWNER, "max_scale", self.max_scale, remedy="Use e.g. 65536.0, or None for no bound")
            if self.max_scale < self.min_scale:
                rule = f"max_scale must be at least min_scale, {self.min_scale:g}"
                raise ValueError(message(_OWNER, "max_scale", self.max_scale, rule, "Use e.g. 65536.0"))
        require_count(_OWNER, "max_consecutive_skips", self.max_consecutive_skips, remedy="Use e.g. 20")
        require_choice(_OWNER, "on_failure", self.on_failure, _ON_FAILURE)

    def init(self) -> State:
        """Return the state before the first attempt: plain numbers, tensors where only a device knows."""
        return {"version": 1, "consecutive": 0, "skipped": 0}

    def update(self, skipped: bool | Tensor, state: State) -> State:
        """Return the state after an attempt.

        Args:
            skipped: whether it was; a 0-d tensor (1.0 for skipped) where only the device knows. Not read here.
        """
        if isinstance(skipped, Tensor):
            flag = skipped.detach().to(torch.float32).clamp(max=1.0)  # it counts devices; several may have found inf
            return {
                **state,
                "consecutive": (state["consecutive"] + 1) * flag,
                "skipped": state["skipped"] + flag,
            }
        return {
            **state,
            "consecutive": state["consecutive"] + 1 if skipped else 0,
            "skipped": state["skipped"] + int(skipped),
        }

    def failed(self, consecutive: float) -> bool:
        """Whether that many skips in a row are too many."""
        return consecutive > self.max_consecutive_skips

    def may_matter(self, possible: int) -> bool:
        """Whether the host should ask the device for its count: half of the limit may have passed unnoticed."""
        # asking too early costs a copy for nothing, asking too late makes the host wait at the limit
        return 2 * possible > self.max_consecutive_skips


@dataclass(frozen=True)
class SkipCount:
    """The skips of one optimizer, and what the host knows about them.

    With a fused optimizer only the device knows whether it skipped; its count arrives later than the next attempts.

    Args:
        state: of ``ScalePolicy``.
        attempts: counted in this fit.
        consecutive: skips in a row, as far as the host knows.
        known_at: the attempt for which the host knows that.
    """

    state: State
    attempts: int = 0
    consecutive: int = 0
    known_at: int = 0

    @staticmethod
    def resumed(state: State) -> SkipCount:
        """Return the count with which a fit begins, from plain numbers."""
        return SkipCount(dict(state), consecutive=int(state["consecutive"]))

    def after(self, skipped: bool | Tensor, policy: ScalePolicy) -> SkipCount:
        """Return the count after one more attempt; where ``skipped`` is a tensor, it has to be ``told`` later."""
        counted = replace(self, state=policy.update(skipped, self.state), attempts=self.attempts + 1)
        if isinstance(skipped, Tensor):
            return counted
        return counted.told(float(counted.state["consecutive"]), counted.attempts)

    def told(self, consecutive: float, at: int) -> SkipCount:
        """Return the count with what the device's was after attempt ``at``."""
        return replace(self, consecutive=int(consecutive), known_at=at)

    def forgiven(self) -> SkipCount:
        """Return the count without a streak: the precision was changed, and a new streak may begin."""
        return replace(self, state={**self.state, "consecutive": 0}, consecutive=0)

    @property
    def possible(self) -> int:
        """How many skips in a row there may have been, if all attempts since were skipped too."""
        return self.consecutive + self.attempts - self.known_at

    @property
    def up_to_date(self) -> bool:
        """Whether the host knows of all attempts."""
        return self.known_at == self.attempts


def on_host(state: State) -> State:
    """Return the state with plain numbers only (one host read where only a device knew)."""
    return {name: int(value) for name, value in state.items()}


def describe_failure(
    *,
    consecutive: int,
    attempt: int,
    step: int,
    scale: float | None,
    names: Sequence[str],
    loss_finite: bool,
    causes: Sequence[str],
) -> str:
    """Return what is known about a run in which too many updates were skipped.

    Args:
        consecutive: skips in a row.
        attempt: number of the last one.
        scale: the loss scale at the last one; None where there is none.
        names: parameters whose gradients hold NaN or inf.
        loss_finite: whether the last loss was finite.
        causes: what a ``PrecisionDoctor`` has found.

    >>> print(describe_failure(
    ...     consecutive=3, attempt=9, step=8, scale=2.0, names=["w"], loss_finite=True, causes=["overflow in head."]
    ... ))
    3 attempts in a row were skipped, the last one attempt 9 (step 8) at loss scale 2. Gradients with NaN or inf: w. \
The loss was finite. overflow in head.
    """
    at = "" if scale is None else f" at loss scale {scale:g}"
    loss = "finite" if loss_finite else "not finite"
    advice = "PrecisionDoctor() beside it names the module; precision='bf16-mixed' has the range of float32."
    return (
        f"{consecutive} attempts in a row were skipped, the last one attempt {attempt} (step {step}){at}. "
        f"Gradients with NaN or inf: {listed(names, 8) or 'none now'}. The loss was {loss}. "
        f"{' '.join(causes) or advice}"
    )


def describe_fallback(text: str, polluted: Sequence[str], precision: str) -> str:
    """Return the text of a failure after which training goes on in another precision.

    Args:
        polluted: buffers in which NaN or inf is left: the weights are as they were, running statistics may not be.

    >>> describe_fallback("3 attempts in a row were skipped.", [], "bf16-mixed")
    '3 attempts in a row were skipped. Training goes on in bf16-mixed.'
    """
    if polluted:
        names = ", ".join(polluted[:6])
        text += f" NaN or inf is left in the buffers {names}: reset them (BatchNorm: reset_running_stats())."
    return f"{text} Training goes on in {precision}."
