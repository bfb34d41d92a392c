"""What a training step gives to the loss functions of torch, whatever made it: recorded while the step runs.

A target that is computed inside ``training_step``, as of masked words, of a teacher or of noise, is in no batch, and an
output that is reshaped on its way is not that of any module. The call of the function has both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lightning_tricks.diagnosis.recorded_calls import RecordedCalls

_FUNCTIONS: dict[Callable[..., Any], str] = {
    getattr(F, name): name
    for name in (
        *("binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy"),
        *("ctc_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss"),
        *("nll_loss", "smooth_l1_loss", "soft_margin_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss"),
    )
}
# (of three vectors, the positive one is what the anchor is compared with; the negative one is among the options)
_OUTPUTS, _TARGETS = ("input", "input1", "log_probs", "anchor"), ("target", "targets", "positive")


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function.

    Args:
        name: of the function in ``torch.nn.functional``.
        output: what it compares.
        target: with what.
        options: the other arguments, by their names.
    """

    name: str
    output: Tensor
    target: Tensor
    options: Mapping[str, Any] = field(default_factory=dict)


class LossCalls(RecordedCalls[LossCall]):
    """Records the calls of loss functions while it is entered; a loss that calls another one is one call.

    Args:
        tracked: keep what they are given with its graph; else detached copies.

    Example:
        >>> import torch
        >>> with LossCalls() as calls:
        ...     loss = torch.nn.MSELoss()(torch.zeros(2), torch.ones(2))
        >>> [(call.name, call.target.tolist()) for call in calls.found]
        [('mse_loss', [1.0, 1.0])]
    """

    def __init__(self, *, tracked: bool = False) -> None:
        super().__init__()
        self._tracked = tracked

    def read(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterable[LossCall]:
        """Yield what a loss function is given."""
        name = _FUNCTIONS.get(func)
        if name is None:
            return
        given = inspect.signature(func).bind(*args, **kwargs).arguments
        output = next((given[key] for key in _OUTPUTS if key in given), None)
        target = next((given[key] for key in _TARGETS if key in given), None)
        if isinstance(output, Tensor) and isinstance(target, Tensor):
            options = {key: value for key, value in given.items() if key not in (*_OUTPUTS, *_TARGETS)}
            yield LossCall(name, self._kept(output), self._kept(target), options)

    def _kept(self, tensor: Tensor) -> Tensor:
        # (copies: a step may write to them later)
        return tensor if self._tracked else tensor.detach().clone()
