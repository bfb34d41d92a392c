"""What a training step looks up and draws at random, recorded while it runs; the same step with one of them changed.

A step may make ids and noise itself, so that they are in no batch. Changing one of them, and nothing else, shows what
depends on it: an experiment, where recording alone is an observation.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_tricks.diagnosis.examination import Examination
from lightning_tricks.diagnosis.recorded_calls import ChangedCalls

_NORMAL: frozenset[Any] = frozenset({torch.randn, torch.randn_like, torch.normal, Tensor.normal_})


class Lookups(ChangedCalls):
    """Records the ids that embeddings are given while it is entered, and may change those of one call.

    Args:
        at: number of the call whose ids are changed.
        change: of these ids.

    Example:
        >>> table = torch.nn.Embedding.from_pretrained(torch.eye(3))
        >>> with Lookups(0, lambda ids: ids + 1) as lookups:
        ...     found = table(torch.tensor([0, 1]))
        >>> lookups.found, found.argmax(1)
        ([tensor([0, 1])], tensor([1, 2]))
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Keep the ids, and look them up."""
        if func is not F.embedding:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
        ids, others = given["input"], self.replaced(given["input"])
        return func(
            ids if others is None else others,
            given["weight"],
            *args[2:],
            **{k: v for k, v in given.items() if k not in ("input", "weight")},
        )


class Draws(ChangedCalls):
    """Records normal random numbers that are drawn while it is entered, and may change those of one call.

    Args:
        at: number of the call whose numbers are changed.
        change: of these numbers; the generator goes on as without it.

    Example:
        >>> with Draws(0, torch.zeros_like) as draws:
        ...     found = torch.randn(2, 3)
        >>> len(draws.found), found.sum()
        (1, tensor(0.))
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Draw, and keep what was drawn."""
        drawn = func(*args, **(kwargs or {}))
        if func not in _NORMAL or not isinstance(drawn, Tensor):
            return drawn
        others = self.replaced(drawn)
        if others is not None:
            # (in place, as ``normal_`` does: whoever holds the tensor sees the other numbers)
            with torch.no_grad():
                drawn.copy_(others)
        return drawn


def watched(exam: Examination, batch: Any, *modes: TorchFunctionMode, updates: int = 0, gradient: bool = False) -> Any:
    """Run the step in eval mode while modes are entered, from where the dry run began; return what it returns.

    Args:
        exam: the examination.
        batch: what the step is given.
        modes: what records or changes.
        updates: made before.
        gradient: whether what is recorded has to have its graph, to the tensors of the batch themselves.
    """
    exam.dry_run.restart(updates)
    with ExitStack() as entered:
        entered.enter_context(exam.evaluating())
        entered.enter_context(torch.enable_grad() if gradient else exam.dry_run.looking())
        for mode in modes:
            entered.enter_context(mode)
        return exam.dry_run.output(batch, tracked=gradient)
