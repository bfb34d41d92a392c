"""What was measured at one attempted update: once, when first asked for, and then read by whoever comes later.

``OptimizerView`` is what holds for a whole fit (parameters, names, shards); a ``Page`` is one attempt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, is_not
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_tricks.errors import TrickError
from lightning_tricks.numerics import host
from lightning_tricks.numerics.norms import NormPlan, tensor_norms, total_norm
from lightning_tricks.numerics.shards import Shards, is_sharded, local
from lightning_tricks.numerics.torch_internals import sparse_values
from lightning_tricks.optimizer_step.loss_scale import LossScale

_grad, _is_sparse = attrgetter("grad"), attrgetter("is_sparse")
# The others ignore grad_scale without a word (RMSprop, NAdam) or stop with an assertion (Adafactor).
_FOLDING_STEPS = ("Adam.step", "AdamW.step", "SGD.step", "Adagrad.step")


class OptimizerView:
    """One optimizer as the tricks see it.

    Args:
        index: its position in ``trainer.optimizers``.
        names: ``{id(parameter): name}``.
    """

    def __init__(self, index: int, optimizer: Optimizer, names: dict[int, str], loss_scale: LossScale) -> None:
        self.index = index
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self._all_names = names
        self.module_names = list(names.values())
        self.refresh()

    def refresh(self) -> None:
        """Read the parameter groups again: callbacks that unfreeze layers add to them in mid-run."""
        groups = self.optimizer.param_groups
        self.parameters: list[Tensor] = [p for g in groups for p in g["params"]]
        self.names = [self._all_names.get(id(p), f"optimizer{self.index}.{i}") for i, p in enumerate(self.parameters)]
        self.group_of = [j for j, g in enumerate(groups) for _ in g["params"]]
        # tells these parameters from others, also from as many, and keeps none of them alive
        self.generation = object()
        self.everything = range(len(self.parameters))
        self._plans: dict[int, NormPlan] = {}
        self._keys: dict[str, list[str]] = {}
        self.sharded = any(is_sharded(p) for p in self.parameters)
        self.shards = Shards(self.parameters)
        self.folds = honours_grad_scale(self.optimizer)

    def keys(self, prefix: str) -> list[str]:
        """Return the log key of each parameter, made once."""
        if prefix not in self._keys:
            self._keys[prefix] = [prefix + name for name in self.names]
        return self._keys[prefix]

    def read(self, page: Page, norm_type: float) -> Tensor:
        """Read the gradients of a page: the norm of each one that is there, of this rank's part, as it stands."""
        if page.known_sparse:  # the number of rows changes from step to step
            return tensor_norms(page.values(), norm_type)
        try:
            norms = self._by_plan(page.locals(), norm_type)
        except RuntimeError:  # others are there now, as many: of another shape or type, or sparse. Looking at each
            self._plans.pop(len(page.gradients), None)  # one in every step would cost a tenth of reading them
            if page.sparse:
                return tensor_norms(page.values(), norm_type)
            norms = self._by_plan(page.locals(), norm_type)
        page.known_sparse = False  # (torch computes no such norms of sparse tensors)
        return norms

    def _by_plan(self, values: list[Tensor], norm_type: float) -> Tensor:
        plan = self._plans.get(len(values))
        if plan is None:
            plan = self._plans[len(values)] = NormPlan(values)
        return plan.norms(values, norm_type)

    @property
    def stale(self) -> bool:
        """Whether the parameters are others than at the last look: told by the objects, not by their number."""
        groups = [group["params"] for group in self.optimizer.param_groups]
        same_number = sum(map(len, groups)) == len(self.parameters)
        return not same_number or any(map(is_not, chain.from_iterable(groups), self.parameters))

    @property
    def device(self) -> torch.device:
        """Where the results of this optimizer's norms lie."""
        return self.parameters[0].device

    def norm_now(self) -> Tensor:
        """Return the true total L2 norm of the gradients between two micro-batches, where all are still scaled, 0-d."""
        norms = tensor_norms([local(p.grad) if p.grad is not None else p.new_zeros(0) for p in self.parameters])
        total = total_norm(self.shards.norms(norms, 2.0))
        scale = self.loss_scale.scale()
        return total if scale is None else total / scale.to(total.device)

    @property
    def scaled(self) -> bool:
        """Whether gradients still carry the loss scale when the tricks see them."""
        return self.loss_scale.leaves_scaled(self.optimizer)


def honours_grad_scale(optimizer: Optimizer) -> bool:
    """Whether the optimizer's own ``step`` divides gradients by ``optimizer.grad_scale`` and obeys ``found_inf``.

    True for torch's Adam, AdamW, SGD and Adagrad when every group is fused; a subclass with its own ``step`` may not.
    """
    step: Any = type(optimizer).step
    native = step.__module__.startswith("torch.optim.") and step.__qualname__ in _FOLDING_STEPS
    return native and all(group.get("fused") for group in optimizer.param_groups)


class Page:
    """One attempted update of one optimizer.

    Args:
        step: the x axis of Lightning's loggers at this attempt.
        attempt: the attempt's number, from 1.
        losses: of the micro-batches of the window, detached; empty when nobody asked for them.
    """

    def __init__(self, view: OptimizerView, step: int, attempt: int, losses: Sequence[Tensor]) -> None:
        self.view = view
        self.step = step
        self.attempt = attempt
        self.losses = losses
        # by the kind of norm, measured when first asked for
        self._norms: dict[float, Tensor] = {}
        self._totals: dict[float, Tensor] = {}
        self._values: list[Tensor] | None = None
        self._correction: Tensor | None = None
        self._found: tuple[list[Tensor], Sequence[int]] | None = None
        self.known_sparse: bool | None = None

    def look_again(self) -> None:
        """Forget which gradients are there. For whoever adds or takes away some before they are read."""
        self._found = self.known_sparse = self._values = None

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients that are there. Listed when first asked for: some tricks never do."""
        return (self._found or self._look())[0]

    @property
    def present(self) -> Sequence[int]:
        """The positions of the parameters that have one."""
        return (self._found or self._look())[1]

    def _look(self) -> tuple[list[Tensor], Sequence[int]]:
        found = list(map(_grad, self.view.parameters))
        gradients = [g for g in found if g is not None]
        present: Sequence[int] = self.view.everything
        if len(gradients) < len(found):
            present = [i for i, g in enumerate(found) if g is not None]
        self._found = gradients, present
        return self._found

    @property
    def empty(self) -> bool:
        """Whether no parameter has a gradient (``training_step`` returned None)."""
        return not self.gradients

    def correct(self, factor: Tensor) -> None:
        """Say that the true gradients are ``factor`` (0-d) times what lies there, the loss scale apart.

        Raises:
            TrickError: norms were read before.
        """
        if self._norms:
            raise TrickError(f"logbook: norms of attempt {self.attempt} were read before their correction was known.")
        self._correction = factor

    @property
    def corrected(self) -> bool:
        """Whether somebody said how the gradients have to be corrected."""
        return self._correction is not None

    def to_true(self) -> Tensor | None:
        """Return what gradients have to be multiplied by to be the true ones, 0-d; None for 1."""
        inverse = self.view.loss_scale.inverse(self.view.optimizer)
        if inverse is None or self._correction is None:
            return inverse if self._correction is None else self._correction
        return inverse.to(self._correction.device) * self._correction

    @property
    def sparse(self) -> bool:
        """Whether a gradient is sparse."""
        if self.known_sparse is None:
            self.known_sparse = any(map(_is_sparse, self.gradients))
        return self.known_sparse

    def locals(self) -> list[Tensor]:
        """Return this rank's part of each gradient that is there; sparse ones as they are."""
        return [local(g) for g in self.gradients] if self.view.sharded else self.gradients

    def values(self) -> list[Tensor]:
        """Return this rank's numbers of each gradient that is there, dense, to read them.

        An uncoalesced sparse gradient is coalesced in a copy: the same gradient, each row once.
        """
        if self._values is None:
            self._values = [_values(g) for g in self.locals()] if self.sparse else self.locals()
        return self._values

    def writable(self) -> list[Tensor]:
        """Return the same to write to: they share the gradients' memory. An uncoalesced one is coalesced in place."""
        if not self.sparse:
            return self.locals()
        for i in self.present:
            parameter = self.view.parameters[i]
            gradient = parameter.grad
            if gradient is not None and gradient.is_sparse and not gradient.is_coalesced():
                parameter.grad = gradient.coalesce()
        self.look_again()
        return [_values(g) for g in self.locals()]

    def norms(self, norm_type: float = 2.0) -> Tensor:
        """Return the true norm of each parameter's gradient, ``[P]``: unscaled, corrected, of the whole tensor.

        Float64 where a gradient is, else float32.
        Read from the gradients at the first call for this ``norm_type``, from the logbook after that. A parameter
        without gradient has norm 0.
        """
        if norm_type not in self._norms:
            self._norms[norm_type] = self.measure(norm_type)
        return self._norms[norm_type]

    def total(self, norm_type: float = 2.0) -> Tensor:
        """Return the true norm of all gradients together, 0-d; computed at the first call for this ``norm_type``."""
        if norm_type not in self._totals:
            self._totals[norm_type] = total_norm(self.norms(norm_type), norm_type)
        return self._totals[norm_type]

    def known_finite(self, norm_type: float = 2.0) -> bool:
        """Whether the host can tell, without waiting for a device, that no gradient is NaN or inf."""
        if not self.norms(norm_type).is_cpu:
            return False
        total = host.value_on_host(self.total(norm_type))
        return total is not None and math.isfinite(total)

    def measure(self, norm_type: float) -> Tensor:
        """Read the gradients now. For whoever changed them within this attempt; all others call ``norms``."""
        view = self.view
        norms = view.read(self, norm_type)
        if len(self.present) < len(view.parameters):
            norms = _spread(norms, self.present, len(view.parameters), view.device)
        norms = view.shards.norms(norms, norm_type)
        factor = self.to_true()
        return norms if factor is None else norms * factor.to(norms.device)


def _spread(values: Tensor, positions: Sequence[int], size: int, device: torch.device) -> Tensor:
    index = torch.tensor(positions, dtype=torch.int64).to(device, non_blocking=True)
    return torch.zeros(size, dtype=values.dtype, device=device).index_copy(0, index, values.to(device))


def _values(gradient: Tensor) -> Tensor:
    return sparse_values(gradient.coalesce()) if gradient.is_sparse else gradient
