"""Which optimizer a recipe takes, and how parameters are put into its groups. torch only: no Lightning in here.

Biases and the scales of normalisation layers get no weight decay; with ``layer_decay`` the rate falls from the head to
the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_tricks.errors import TrickError, is_list, message, nearest, require_choice, require_number
from lightning_tricks.numerics.torch_internals import NORM_LAYERS

_KINDS: dict[str, type[Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer with its settings, to be built for any module.

    Args:
        kind: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        lr: learning rate, > 0.
        weight_decay: of matrices and kernels, >= 0; biases and norms get none.
        momentum: of SGD, in [0, 1).
        nesterov: of SGD; needs momentum.
        betas: of Adam and AdamW, each in [0, 1).
        layer_decay: in (0, 1]: each layer's rate is that of the layer above it times this; None for one rate.
        parts: names of submodules that each get an optimizer of their own, as in a GAN; empty for one of all.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.

    Example:
        >>> OptimizerChoice("sgd", lr=0.1, momentum=0.9).build(torch.nn.Linear(2, 2))[0].param_groups[0]["momentum"]
        0.9
    """

    kind: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float | None = None
    parts: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = "optimizer"
        require_choice(owner, "kind", self.kind, _KINDS)
        require_number(owner, "lr", self.lr, remedy="Use e.g. 1e-3")
        require_number(owner, "weight_decay", self.weight_decay, low_included=True, remedy="Use e.g. 0.01, or 0")
        require_number(owner, "momentum", self.momentum, high=1.0, low_included=True, remedy="Use e.g. 0.9")
        betas: Any = self.betas
        if not is_list(betas) or len(betas) != 2:
            rule = "betas must be two numbers in [0, 1)"
            raise TypeError(message(owner, "betas", betas, rule, "Use e.g. (0.9, 0.95)"))
        for beta in betas:
            require_number(owner, "betas", beta, high=1.0, low_included=True, remedy="Use e.g. (0.9, 0.95)")
        object.__setattr__(self, "betas", tuple(betas))
        object.__setattr__(self, "parts", (self.parts,) if isinstance(self.parts, str) else tuple(self.parts))
        if self.layer_decay is not None:
            remedy = "Use e.g. 0.75, or None for one rate"
            require_number(owner, "layer_decay", self.layer_decay, high=1.0, high_included=True, remedy=remedy)
        if self.nesterov and not self.momentum:
            rule = "nesterov needs momentum > 0"
            raise ValueError(message(owner, "nesterov", True, rule, "Pass momentum=0.9, or nesterov=False"))

    def changed(self, settings: dict[str, Any]) -> OptimizerChoice:
        """Return the choice with some settings changed.

        Raises:
            TypeError: a setting has a name that there is not.
        """
        names = [f.name for f in fields(self)]
        for name in settings:
            if name not in names:
                near = nearest(name, names)
                remedy = f"Did you mean {near!r}?" if near else f"Use one of {', '.join(names)}"
                raise TypeError(message("optimizer", name, settings[name], f"there is no setting {name}", remedy))
        return replace(self, **settings)

    def build(self, module: nn.Module, *, fused: bool = True) -> list[Optimizer]:
        """Return the optimizers for the trainable parameters of ``module``: one, or one for each of ``parts``.

        Raises:
            TrickError: there is nothing to train, or a part is not there.
        """
        if not self.parts:
            return [self._one(module, type(module).__name__, fused)]
        children = dict(module.named_children())
        for part in self.parts:
            if part not in children:
                near = nearest(part, children)
                hint = f" Did you mean {near!r}?" if near else ""
                found = ", ".join(children) or "none"
                raise TrickError(f"optimizer: the module has no part {part!r} (it has {found}).{hint} Set parts=.")
        return [self._one(children[part], part, fused) for part in self.parts]

    def _one(self, module: nn.Module, name: str, fused: bool) -> Optimizer:
        if self.kind == "sgd":
            settings: dict[str, Any] = {"momentum": self.momentum, "nesterov": self.nesterov}
        else:
            settings = {"betas": self.betas}

        groups = parameter_groups(module, lr=self.lr, weight_decay=self.weight_decay, layer_decay=self.layer_decay)
        parameters = [p for group in groups for p in group["params"]]
        if not groups:
            raise TrickError(f"optimizer: no parameter of {name} requires a gradient. Unfreeze some before the fit.")
        cls: Any = _KINDS[self.kind]
        if fused and all(map(has_fused_step, dict.fromkeys((p.device, p.dtype) for p in parameters))):
            settings["fused"] = True
        return cls(groups, lr=self.lr, **settings)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        shown = ["weight_decay", *(["momentum", "nesterov"] if self.kind == "sgd" else ["betas"])]
        shown += [name for name in ("layer_decay", "parts") if getattr(self, name)]
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in ["lr", *shown])
        return f"{_KINDS[self.kind].__name__}({settings})"


def has_fused_step(kind: tuple[torch.device, torch.dtype]) -> bool:
    """Whether torch has a fused optimizer step for this device and type; tried out on one number.

    >>> has_fused_step((torch.device("cpu"), torch.float32)), has_fused_step((torch.device("cpu"), torch.complex64))
    (True, False)
    """
    probe = torch.zeros(1, device=kind[0], dtype=kind[1], requires_grad=True)
    # (``abs``, which is real for complex numbers too)
    torch.autograd.backward(probe.abs().sum())
    try:
        torch.optim.SGD([probe], fused=True).step()
    except RuntimeError:
        return False
    return True


def parameter_groups(
    module: nn.Module, *, lr: float, weight_decay: float, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Put the trainable parameters into groups: without weight decay on biases and norms, by layer where asked for.

    Args:
        lr: of the last layer.
        weight_decay: of parameters with two or more dimensions outside of normalisation layers.
        layer_decay: factor from each layer to the one below it (see ``layers``); None for one rate.

    Returns:
        Groups with ``params``, ``name``, ``lr`` and ``weight_decay``, in the order of the layers; none is empty.

    Reference: He et al., "Bag of Tricks for Image Classification", 2018, arXiv:1812.01187 (no decay on biases and
    norms); Bao et al., "BEiT", 2021, arXiv:2106.08254 (layer-wise rates).

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        >>> [(g["name"], len(g["params"]), g["weight_decay"]) for g in parameter_groups(net, lr=0.1, weight_decay=0.01)]
        [('decay', 2, 0.01), ('no_decay', 4, 0.0)]
    """
    normalising = {id(p) for m in module.modules() if isinstance(m, NORM_LAYERS) for p in m.parameters(recurse=False)}
    blocks = layers(module) if layer_decay is not None else [[name for name, _ in module.named_parameters()]]
    parameters = dict(module.named_parameters())
    groups = []
    for depth, names in enumerate(blocks):
        factor = 1.0 if layer_decay is None else layer_decay ** (len(blocks) - 1 - depth)
        trained = [parameters[name] for name in names if parameters[name].requires_grad]
        spared = [p.ndim < 2 or id(p) in normalising for p in trained]
        prefix = "" if layer_decay is None else f"layer{depth}/"
        for name, wanted, decay in (("decay", False, weight_decay), ("no_decay", True, 0.0)):
            params = [p for p, is_spared in zip(trained, spared, strict=True) if is_spared is wanted]
            if params:
                groups.append({"params": params, "name": prefix + name, "lr": lr * factor, "weight_decay": decay})
    return groups


def layers(module: nn.Module) -> list[list[str]]:
    """Return parameter names by layer, from the input to the head, in the order in which modules were registered.

    The blocks of the longest ``ModuleList`` or ``Sequential`` are layers; what is registered before it is the layer
    below them, what comes after it the head. Without one, each direct child is a layer.

    Example:
        >>> layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
        [['0.weight', '0.bias'], ['2.weight', '2.bias']]
    """
    names = [name for name, _ in module.named_parameters()]
    stacks = [
        (_blocks(m), prefix) for prefix, m in module.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential))
    ]
    blocks, prefix = max(stacks, key=lambda stack: len(stack[0]), default=([], ""))
    if len(blocks) < 2:
        blocks, prefix = _blocks(module), ""
    starts = [f"{prefix}.{block}.".lstrip(".") for block in blocks]
    found: dict[int, list[str]] = {}
    place = 0
    for name in names:
        inside = next((i + 1 for i, start in enumerate(starts) if name.startswith(start)), None)
        # (before the first block, in one, or behind: the head)
        place = len(starts) + 1 if inside is None and place else place if inside is None else inside
        found.setdefault(place, []).append(name)
    return [found[key] for key in sorted(found)]


def _blocks(module: nn.Module) -> Sequence[str]:
    def trains(child: nn.Module) -> bool:
        return next(child.parameters(), None) is not None

    return [name for name, child in module.named_children() if trains(child)]
