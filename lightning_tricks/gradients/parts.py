"""What gets a clip coefficient of its own: the model, a group of parameters, or each layer's parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_tricks.errors import TrickError, message
from lightning_tricks.modules.selection import assign, matching
from lightning_tricks.numerics.norms import group_norms, total_norm
from lightning_tricks.optimizer_step.logbook import OptimizerView


@dataclass(frozen=True)
class Parts:
    """A split of ``P`` parameters into ``k`` parts.

    Args:
        names: of the parts, ``k``.
        group_of: the part of each parameter, ``[P]`` int64; None where the parts are the model or the parameters.
        size: ``P``.
        each: whether every parameter is a part.

    Example:
        >>> parts = Parts.of_groups(["body", "head"], [0, 0, 1], torch.device("cpu"))
        >>> parts.norms(torch.tensor([3.0, 4.0, 2.0]), 2.0)
        tensor([5., 2.])
        >>> parts.spread(torch.tensor([0.5, 1.0]))
        tensor([0.5000, 0.5000, 1.0000])
    """

    names: tuple[str, ...]
    group_of: Tensor | None
    size: int
    each: bool = False

    @classmethod
    def of_model(cls, size: int) -> Parts:
        """All parameters together."""
        return cls(("model",), None, size)

    @classmethod
    def of_layers(cls, names: Sequence[str]) -> Parts:
        """Every parameter tensor by itself."""
        return cls(tuple(names), None, len(names), each=True)

    @classmethod
    def of_groups(cls, names: Sequence[str], group_of: Sequence[int], device: torch.device) -> Parts:
        """Groups of parameters."""
        return cls(tuple(names), torch.tensor(group_of, dtype=torch.int64, device=device), len(group_of))

    @classmethod
    def of_named(cls, groups: Mapping[str, str], placed: Sequence[int], device: torch.device, *, rest: bool) -> Parts:
        """The named groups that have a parameter here, and with ``rest`` a last part for all other parameters.

        Args:
            placed: the group of each parameter, -1 for none.
            rest: whether to add that last part.
        """
        used = sorted(set(placed) - {-1})
        names = [list(groups)[j] for j in used] + ["rest"] * rest
        return cls.of_groups(names, [used.index(j) if j >= 0 else len(used) for j in placed], device)

    @property
    def whole(self) -> bool:
        """Whether one coefficient holds for all gradients."""
        return self.group_of is None and not self.each

    def norms(self, norms: Tensor, norm_type: float) -> Tensor:
        """Return the norm of each part from those of the parameters ``[P]``: ``[k]``, or 0-d for the whole model."""
        if self.group_of is not None:
            return group_norms(norms, self.group_of, len(self.names), norm_type)
        return norms if self.each else total_norm(norms, norm_type)

    def named_norms(self, norms: Tensor, norm_type: float) -> tuple[tuple[str, ...], Tensor]:
        """Return the names and norms of the parts but for the last one, which takes what is in no group."""
        return self.names[:-1], self.norms(norms, norm_type)[:-1]

    def spread(self, coefficients: Tensor) -> Tensor:
        """Return each parameter's coefficient ``[P]`` from those of the parts ``[k]``."""
        return coefficients if self.group_of is None else coefficients[self.group_of]


def place(
    views: Sequence[OptimizerView], groups: Mapping[str, str], *, owner: str, strict: bool = True
) -> dict[int, list[int]]:
    """Return the group of each parameter of each optimizer, -1 for none.

    Args:
        views: the optimizers; a pattern need match in one of them only, or a parameter that is frozen for now.
        groups: name -> pattern on parameter names.
        strict: whether a pattern that matches nothing is an error.

    Raises:
        TrickError: a pattern matches nothing, or groups overlap.
    """
    names = [name for view in views for name in view.names]
    if strict:  # parameters that are frozen for now are in no optimizer, but they may be named
        for title, pattern in groups.items():
            everywhere = list(dict.fromkeys([*names, *(n for view in views for n in view.module_names)]))
            matching(everywhere, pattern, owner=owner, argument=f"groups[{title!r}]")
    # (not strict: patterns that match nothing were refused above, by more names)
    placed = assign(names, groups, owner=owner, strict=False)
    out = {}
    for view in views:
        out[view.index], placed = placed[: len(view.names)], placed[len(view.names) :]
    return out


def named_parts(
    views: Sequence[OptimizerView], groups: Mapping[str, str] | None, *, owner: str, strict: bool
) -> dict[int, Parts]:
    """Return the groups of each optimizer that has a parameter in one, by its index; the last part is in no group.

    Raises:
        TrickError: a pattern matches nothing, or groups overlap.
    """
    if groups is None:
        return {}
    placed = place(views, groups, owner=owner, strict=strict)
    hit = [view for view in views if any(j >= 0 for j in placed[view.index])]
    return {view.index: Parts.of_named(groups, placed[view.index], view.device, rest=True) for view in hit}


def claimed(views: Sequence[OptimizerView], groups: Mapping[str, str] | None, per: str) -> list[OptimizerView]:
    """Return the optimizers that a ``GradientClip`` is for: those with a parameter in one of its groups.

    Args:
        groups: name -> pattern; None for all optimizers.
        per: what gets a coefficient of its own. Unless it is ``"group"``, an optimizer is taken as a whole.

    Raises:
        TrickError: a pattern matches nothing, groups overlap, or an optimizer would be taken in part.
    """
    if groups is None:
        return list(views)
    placed = place(views, groups, owner="GradientClip")
    hit = [view for view in views if any(j >= 0 for j in placed[view.index])]
    for view in hit:
        if per != "group" and -1 in placed[view.index]:
            left = view.names[placed[view.index].index(-1)]
            text = f"per={per!r} picks whole optimizers, but {left!r} of optimizer {view.index} is in no group"
            raise TrickError(message("GradientClip", "groups", dict(groups), text, "Use per='group', or match all"))
    return hit
